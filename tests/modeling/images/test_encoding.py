"""Image files: read, damaged, too large, written."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from modeling.editors.avatars import portrait, render
from modeling.images import ImageError, decode_image, encode_png, encoding


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
    monkeypatch.setattr(encoding, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="too large: 10 x 10"):
        decode_image(data)


@pytest.mark.parametrize("side", [9_000, 14_000])
def test_too_many_pixels_for_us_or_for_pillow(side: int) -> None:
    """Between our limit and Pillow's, and above both; a header is enough."""
    data = io.BytesIO()
    Image.new("1", (side, side)).save(data, "PNG")
    with pytest.raises(ImageError, match=r"the image is too large: .* over 64000000 pixels"):
        decode_image(data.getvalue())


def stored(turn: int | bytes) -> bytes:
    """A JPEG of red, red, blue from left to right, 30 × 10, with an EXIF orientation."""
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (20, 0, 30, 10))
    exif: Image.Exif | bytes = Image.Exif()
    if isinstance(turn, bytes):
        exif = turn
    elif isinstance(exif, Image.Exif):
        exif[0x0112] = turn
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", exif=exif, quality=95, subsampling=0)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("turn", "shape", "blue"),
    [
        *((turn, (10, 30), (5, -1)) for turn in (0, 1, 4, 9, 65535)),
        *((turn, (10, 30), (5, 0)) for turn in (2, 3)),
        *((turn, (30, 10), (-1, 5)) for turn in (5, 6)),
        *((turn, (30, 10), (0, 5)) for turn in (7, 8)),
        # a damaged EXIF, which viewers pass over
        (b"Exif\0\0garbage", (10, 30), (5, -1)),
        (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", (10, 30), (5, -1)),
    ],
)
def test_orientation(turn: int | bytes, shape: tuple[int, int], blue: tuple[int, int]) -> None:
    upright = decode_image(stored(turn))
    assert upright.shape == (*shape, 3)
    red, _, most = upright[blue].tolist()
    assert red < 30 and most > 220


def test_the_middle_is_cropped() -> None:
    assert np.abs(decode_image(stored(1), 4)[2, 1].astype(int) - (254, 0, 0)).max() < 8


@pytest.mark.parametrize("data", [b"text", b"\0" * 500, b"GIF89a", b"\x89PNG\r\n\x1a\n\0"])
def test_reasons_are_the_same_each_time(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert "0x" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_only_colour_pictures_are_encoded(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8 array"):
        encode_png(image)
