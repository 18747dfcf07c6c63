"""Image files: read, damaged, too large, written."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from modeling import images
from modeling.editors.avatars import portrait, render
from modeling.images import ImageError, decode_image, encode_png, list_images


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "gone")
    with pytest.raises(ImageError, match="holds no image"):
        list_images(tmp_path)


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_png_is_lossless(image: np.ndarray) -> None:
    assert np.array_equal(decode_image(encode_png(image)), image)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000), value=st.integers(1, 255))
def test_damaged_files_raise_image_errors_only(cut: int, flip: int, value: int) -> None:
    data = encode_png(render(portrait(0), 16))
    damaged = bytearray(data)
    damaged[flip % len(data)] ^= value
    for broken in (data[: cut % len(data)], bytes(damaged)):
        with contextlib.suppress(ImageError):
            assert decode_image(broken, 8).shape == (8, 8, 3)
    for end in (0, 10, len(data) // 2):
        with pytest.raises(ImageError):
            decode_image(data[:end])


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_png(np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="too large: 10 x 10"):
        decode_image(data)


def test_orientation_crop_transparency_and_depth() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (20, 0, 30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise to look at it
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", exif=exif)
    upright = decode_image(buffer.getvalue())
    assert upright.shape == (30, 10, 3)
    assert tuple(upright[-1, 0]) == (0, 0, 255)
    assert tuple(decode_image(buffer.getvalue(), 4)[2, 2]) == (255, 0, 0)  # the middle is red

    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, format="PNG")
    assert (decode_image(buffer.getvalue()) == 255).all()

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(buffer, format="PNG")
    assert (decode_image(buffer.getvalue()) == 0x80).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_only_colour_pictures_are_encoded(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8 array"):
        encode_png(image)
