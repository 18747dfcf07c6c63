"""Pictures as people have them: what comes in, and that it goes out alike."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling.images import decode_image, encode_like, open_picture


def drawn(mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Smooth colours, half of it transparent where the mode has that."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    colours = np.stack([8 * x, 12 * y, 4 * x + 6 * y], -1).astype(np.uint8)
    picture = Image.fromarray(colours)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray((255 * (x > size[0] // 2)).astype(np.uint8)))
    return picture if mode == picture.mode else picture.convert(mode)


def stored(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


FILES = {
    "jpeg": (stored(drawn(), "JPEG"), "JPEG", ".jpg", False, ""),
    "grey jpeg": (stored(drawn("L"), "JPEG"), "JPEG", ".jpg", False, ""),
    "cmyk jpeg": (stored(drawn("CMYK"), "JPEG"), "JPEG", ".jpg", False, ""),
    "png": (stored(drawn(), "PNG"), "PNG", ".png", False, ""),
    "transparent png": (stored(drawn("RGBA"), "PNG"), "PNG", ".png", True, ""),
    "grey and alpha": (stored(drawn("LA"), "PNG"), "PNG", ".png", True, ""),
    "palette": (stored(drawn("P"), "PNG"), "PNG", ".png", False, ""),
    "16 bits": (
        stored(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
        *("PNG", ".png", False, ""),
    ),
    "float tiff": (
        stored(Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"),
        *("TIFF", ".png", False, ""),
    ),
    "webp": (stored(drawn(), "WEBP", lossless=True), "WEBP", ".webp", False, ""),
    "transparent webp": (
        stored(drawn("RGBA"), "WEBP", lossless=True),
        *("WEBP", ".webp", True, ""),
    ),
    "bmp": (stored(drawn(), "BMP"), "BMP", ".png", False, ""),
    "animation": (
        stored(drawn(), "GIF", save_all=True, append_images=[drawn().rotate(a) for a in (90, 180)]),
        *("GIF", ".png", False, "the first of 3 frames"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_comes_in_goes_out_alike(name: str) -> None:
    data, kind, suffix, transparent, note = FILES[name]
    opened = open_picture(data)
    assert opened.colours.shape == (20, 30, 3) and opened.colours.dtype == np.uint8
    assert (opened.kind, opened.note) == (kind, note)
    assert (opened.alpha is not None) == transparent
    np.testing.assert_array_equal(opened.seen, decode_image(data))
    out, ending = encode_like(opened, opened.seen)
    assert ending == suffix
    again = open_picture(out)
    if suffix == ".jpg":
        assert np.abs(again.colours.astype(int) - opened.colours).mean() < 2
    else:
        np.testing.assert_array_equal(again.colours, opened.colours)
    if transparent:
        np.testing.assert_array_equal(again.alpha, opened.alpha)


def test_a_damaged_end_of_an_animation_spoils_nothing() -> None:
    data = FILES["animation"][0]
    opened = open_picture(data[: len(data) * 2 // 3])
    np.testing.assert_array_equal(opened.colours, open_picture(data).colours)
