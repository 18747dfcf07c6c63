"""Any picture that Pillow reads as sRGB, 8 bits a channel: depth, profile, transparency.

Grey of more than 8 bits is scaled to 0 … 255 by the rule of `SCALES`, an embedded ICC profile is
converted to sRGB, and transparency is laid on white.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from modeling.images.error import ImageError

SCALES = {
    "i": (255, 65535, 2**31 - 1),
    "u": (255, 65535, 2**32 - 1),
    "f": (1, 255, 65535),
}
"""What white may be in 32-bit grey, whose files do not say it: the least that no value is above.

Of signed and unsigned integers, and of floats.
"""
SAMPLE_FORMAT, UNSIGNED = 339, 1
"""A TIFF's word for what its bits mean; what it means without."""
OVERSHOOT = 0.1
"""Part of white by which float grey may lie outside black and white, as resampling leaves it."""
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Colour space of a profile → the mode of pictures it describes."""
SAME = 2
"""Levels by which a profile's colours may differ from sRGB's and still be taken for them."""


def to_srgb(picture: Image.Image) -> Image.Image:
    """An RGB picture, transparency laid on white; raises as `split`."""
    return on_white(*split(picture))


def split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours (RGB) and transparency (L, or None); ImageError where grey values are on no scale
    that is known."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if not picture.has_transparency_data:
        return _converted(picture, profile), None
    rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    return _converted(rgba.convert("RGB"), profile), rgba.getchannel("A")


def on_white(colours: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """RGB, as it looks on a white page."""
    if alpha is None:
        return colours
    rgba = colours.convert("RGBA")
    rgba.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as 8: 16 bits by their upper half, 32 bits by SCALES.

    Pillow's own conversion clips: almost all of such a picture becomes white, or black.
    """
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
    else:
        grey = _scaled(picture, values)
    clear = picture.info.get("transparency")
    out = Image.fromarray(grey)
    if isinstance(clear, int):  # a PNG's one transparent value
        out.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return out


def _scaled(picture: Image.Image, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if picture.mode == "I" and _unsigned(picture):
        values = values.view(np.uint32)  # Pillow's own has signed integers only
    kind = values.dtype.kind
    grey = values.astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("its grey values are not all finite")
    slack = OVERSHOOT if kind == "f" else 0.0
    # Netpbm's are brought to 16 bits when they are read, however dark
    scales = (65535,) if kind == "i" and picture.format == "PPM" else SCALES[kind]
    white = next((white for white in scales if high <= white * (1 + slack)), 0)
    if white and low >= -slack * white:
        return np.rint((grey / white).clip(0, 1) * 255).astype(np.uint8)
    known = ", ".join(f"0 … {white}" for white in scales)
    raise ImageError(f"its grey goes from {low:g} to {high:g}, and on none of the scales {known}")


def _unsigned(picture: Image.Image) -> bool:
    tags = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED


def _converted(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """By its profile, if it has one that can be read and is for such pictures."""
    if picture.mode == "LAB" and profile is None:
        profile = _lab()
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    elif picture.mode not in ("L", "CMYK", "LAB"):
        picture = picture.convert("RGB")
    if profile and picture.mode == "RGB" and _mode_of(profile) == "L":
        return _converted(picture.convert("L"), profile)  # grey that a palette or alpha made RGB
    transform = _transform(profile, picture.mode) if profile else None
    if transform is None:
        return picture.convert("RGB")
    return ImageCms.applyTransform(picture, transform) or picture


@lru_cache(maxsize=64)
def _lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@lru_cache(maxsize=64)
def _mode_of(profile: bytes) -> str:
    """The mode of pictures that a profile describes; "" where it is damaged or another's."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return SPACES.get(opened.profile.xcolor_space, "")
    except (OSError, ImageCms.PyCMSError):
        return ""


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """To sRGB; None where there is nothing to convert, or nothing to convert by."""
    if _mode_of(profile) != mode:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError):
        return None
    if mode not in ("RGB", "L"):
        return transform
    # most profiles are sRGB's own: not to change a picture by roundings
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    probe = Image.fromarray(grid if mode == "RGB" else levels[None])
    made = ImageCms.applyTransform(probe, transform)
    gap = np.abs(np.asarray(made, int) - np.asarray(probe.convert("RGB"), int)).max()
    return transform if gap > SAME else None
