"""Depths, profiles and transparency: what the colours of a file come out as."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from modeling.images import ImageError, decode_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = {  # colorants of Display P3 as a profile has them, adapted to D50
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def tag_at(profile: bytes, name: bytes) -> int:
    """Where a tag's data begin."""
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(count)]
    return int(next(start for tag, start, _ in tags if tag == name))


def display_p3() -> bytes:
    """sRGB's profile with the primaries of Display P3; the curves are the same."""
    profile = bytearray(SRGB)
    for name, xyz in P3.items():
        struct.pack_into(">3i", profile, tag_at(SRGB, name) + 8, *(round(v * 65536) for v in xyz))
    return bytes(profile)


def profile_of(space: bytes, name: bytes, data: bytes) -> bytes:
    """A profile of one tag, with Lab as its connection space."""
    header = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"prtr", space, b"Lab ")
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)  # D50
    body = header.ljust(128, b"\0") + struct.pack(">I4sII", 1, name, 144, len(data)) + data
    return struct.pack(">I", len(body)) + body[4:]


def cmyk_in_which_ink_is_blue() -> bytes:
    """A profile that maps no ink to white, and any full ink to one blue."""
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += bytes(range(256)) * 4
    table += bytes([255, 128, 128]) + bytes([80, 200, 20]) * 15
    return profile_of(b"CMYK", b"A2B0", table + bytes(range(256)) * 3)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values: list[float], dtype: str) -> bytes:
    data = encoded(Image.fromarray(np.array([values], dtype)), "TIFF")
    if dtype != "u4":
        return data
    # Pillow writes them as signed: the tag SampleFormat, one short, from 2 to 1
    signed, unsigned = (struct.pack("<HHIH", 339, 3, 1, value) for value in (2, 1))
    assert signed in data
    return data.replace(signed, unsigned)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 300, 0x8000, 65535], "u2", [0, 1, 128, 255]),
        ([0, 300, 0x8000, 65535], ">u2", [0, 1, 128, 255]),
        ([0, 100, 255], "i4", [0, 100, 255]),
        ([0, 100, 256], "i4", [0, 0, 1]),
        ([0, 32768, 65535], "i4", [0, 128, 255]),
        ([0, 2**30, 2**31 - 1], "i4", [0, 128, 255]),
        ([0, 2**31, 2**32 - 1], "u4", [0, 128, 255]),
        ([0, 0.5, 1], "f4", [0, 128, 255]),
        ([-0.04, 0.5, 1.04], "f4", [0, 128, 255]),
        ([0, 100, 255], "f4", [0, 100, 255]),
        ([0, 32768, 65535], "f4", [0, 128, 255]),
        ([0, 0, 0], "f4", [0, 0, 0]),
    ],
)
def test_grey_of_any_depth(values: list[float], dtype: str, expected: list[int]) -> None:
    assert decode_image(grey(values, dtype))[0].tolist() == [[v] * 3 for v in expected]


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        ([-5, 0, 1], "i4", "goes from -5 to 1, and on none of the scales 0 … 255, 0 … 65535"),
        ([0, 3, 1e7], "f4", "0 … 1, 0 … 255, 0 … 65535"),
        ([-0.5, 0, 0.5], "f4", "goes from -0.5 to 0.5"),
        ([0, float("nan"), 1], "f4", "not all finite"),
        ([0, float("inf"), 1], "f4", "not all finite"),
    ],
)
def test_grey_on_no_known_scale_is_an_error(values: list[float], dtype: str, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        decode_image(grey(values, dtype))


def test_dark_netpbm_grey_stays_dark() -> None:
    data = b"P5\n3 1\n65535\n" + np.array([0, 200, 255], ">u2").tobytes()
    assert decode_image(data)[0, :, 0].tolist() == [0, 1, 1]


def coloured(mode: str, colour: Any, **info: Any) -> bytes:
    kind = "TIFF" if mode in ("CMYK", "LAB") else "PNG"
    return encoded(Image.new(mode, (2, 2), colour), kind, **info)


def palette(clear: bool, profile: bytes | None = None) -> bytes:
    """Two pixels of a palette: Display P3's name for sRGB's red, and green, which may be clear."""
    picture = Image.new("P", (2, 1))
    picture.putpalette([234, 51, 35, 0, 255, 0])
    picture.putdata([0, 1])
    options: dict[str, Any] = {"transparency": 1} if clear else {}
    return encoded(picture, icc_profile=profile, **options)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (coloured("RGB", (234, 51, 35), icc_profile=display_p3()), (255, 0, 0)),
        (coloured("RGBA", (234, 51, 35, 255), icc_profile=display_p3()), (255, 0, 0)),
        (palette(False, display_p3()), (255, 0, 0)),
        (palette(True, display_p3()), (255, 0, 0)),
        (coloured("RGBA", (234, 51, 35, 0), icc_profile=display_p3()), (255, 255, 255)),
        # what changes nothing: sRGB's own, a damaged one, one of other pictures, none
        (coloured("RGB", (234, 51, 35), icc_profile=SRGB), (234, 51, 35)),
        (coloured("RGB", (234, 51, 35), icc_profile=display_p3()[:200]), (234, 51, 35)),
        (coloured("RGB", (234, 51, 35), icc_profile=b"no profile"), (234, 51, 35)),
        (coloured("RGB", (9, 8, 7), icc_profile=cmyk_in_which_ink_is_blue()), (9, 8, 7)),
        (coloured("L", 100, icc_profile=display_p3()), (100, 100, 100)),
        (palette(False), (234, 51, 35)),
        # print and Lab
        (coloured("CMYK", (0, 0, 0, 0)), (255, 255, 255)),
        (coloured("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (coloured("CMYK", (0, 255, 255, 0), icc_profile=b"no profile"), (255, 0, 0)),
        (coloured("CMYK", (0,) * 4, icc_profile=cmyk_in_which_ink_is_blue()), (255, 255, 255)),
        (coloured("LAB", (255, 128, 128)), (255, 255, 255)),
        (coloured("LAB", (0, 128, 128)), (0, 0, 0)),
    ],
)
def test_colours_come_out_as_srgb(data: bytes, expected: tuple[int, int, int]) -> None:
    assert np.abs(decode_image(data)[0, 0].astype(int) - expected).max() <= 1


def test_a_print_profile_decides_over_the_plain_rule() -> None:
    red = decode_image(coloured("CMYK", (0, 255, 255, 0), icc_profile=cmyk_in_which_ink_is_blue()))[
        0, 0
    ].astype(int)
    assert red[2] > red[0]


@pytest.mark.parametrize("profile", [None, SRGB, display_p3()])
def test_transparency_is_laid_on_white(profile: bytes | None) -> None:
    assert (decode_image(palette(True, profile))[0, 1] == 255).all()


def test_one_transparent_value_of_16_bit_grey() -> None:
    values = np.array([[0x1234, 0x8000]], np.uint16)
    data = encoded(Image.fromarray(values), transparency=0x1234)
    assert decode_image(data)[0, :, 0].tolist() == [255, 128]
