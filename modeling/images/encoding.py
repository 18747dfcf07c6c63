"""Encoded images in and out: PNG bytes and any file Pillow reads, as uint8 RGB arrays."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from modeling.images.colours import on_white, split
from modeling.images.error import ImageError
from modeling.reasons import one_line

MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what brings the picture upright."""


@dataclass(frozen=True)
class Opened:
    """A picture as it came, upright and in sRGB."""

    colours: np.ndarray
    """uint8 [H, W, 3]."""
    seen: np.ndarray
    """The same on a white page: other where it is transparent."""
    alpha: np.ndarray | None
    """uint8 [H, W]."""
    kind: str
    """Pillow's name of its format."""
    note: str
    """What was left out; "" for nothing."""


def encode_png(image: np.ndarray) -> bytes:
    """Encode a uint8 [H, W, 3] array as PNG bytes.

    Raises ImageError for any other dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f"a PNG is made from a uint8 array [H, W, 3], not {image.dtype} {list(image.shape)}"
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Encode a uint8 [H, W, 3] array as JPEG bytes, colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, format="JPEG", quality=quality, subsampling=0
    )
    return buffer.getvalue()


def encode_like(opened: Opened, edited: np.ndarray) -> tuple[bytes, str]:
    """An edit of `opened.seen` with the transparency and in the format of the picture; also the
    file's suffix.

    PNG, lossless WebP, or JPEG of high quality; what came in another format goes out as PNG. What
    shows through keeps its own colour but for the edit's change; JPEG has it on white.
    """
    if opened.kind in ("JPEG", "MPO"):
        return encode_jpeg(edited, 95), ".jpg"
    colours = edited
    if opened.alpha is not None:
        changed = opened.colours.astype(np.int16) + edited - opened.seen.astype(np.int16)
        colours = changed.clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(colours))
    if opened.alpha is not None:
        picture.putalpha(Image.fromarray(opened.alpha))
    buffer = io.BytesIO()
    if opened.kind == "WEBP":
        picture.save(buffer, format="WEBP", lossless=True, exact=True)
        return buffer.getvalue(), ".webp"
    picture.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue(), ".png"


def decode_image(data: bytes, size: int | None = None) -> np.ndarray:
    """Decode an encoded image into uint8 RGB [H, W, 3].

    The EXIF orientation is applied, an embedded profile is converted to sRGB, grey of more than 8
    bits is scaled (modeling/images/colours.py) and transparency is laid on white. With `size`, the
    picture is cropped to its central square and resampled (Lanczos, antialiased) to
    [size, size, 3].

    Raises ImageError when the bytes are no image, are cut short, or hold more than MAX_PIXELS.
    """
    if size is not None and size < 1:
        raise ImageError(f"size must be at least 1 pixel, not {size}")
    picture = on_white(*_read(data)[:2])
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).copy()


def open_picture(data: bytes) -> Opened:
    """A picture with what `decode_image` lets go: its size, transparency and format. Raises as it.

    Of an animation the first frame is taken.
    """
    colours, alpha, kind, frames = _read(data, count=True)

    def array(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture, dtype=np.uint8).copy()

    return Opened(
        array(colours),
        array(on_white(colours, alpha)),
        None if alpha is None else array(alpha),
        kind,
        f"the first of {frames} frames" if frames > 1 else "",
    )


def _read(data: bytes, *, count: bool = False) -> tuple[Image.Image, Image.Image | None, str, int]:
    """Colours, transparency, format, and, if they are to be counted, frames; upright, in sRGB."""
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"the image is too large: {width} x {height} is over {MAX_PIXELS} pixels"
                )
            parts = [None if part is None else _upright(part, opened) for part in split(opened)]
            kind, frames = opened.format or "", _frames(opened) if count else 1
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, before it says the size
        raise ImageError(f"the image is too large: it is over {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:  # whose text has the address of the bytes
        raise ImageError("the image cannot be decoded: it is in no format that is known") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt input
        raise ImageError(f"the image cannot be decoded: {one_line(error)}") from error
    colours, alpha = parts
    if colours is None or 0 in colours.size:
        raise ImageError(f"the image has no pixels: {width} x {height}")
    return colours, alpha, kind, frames


def _frames(opened: Image.Image) -> int:
    try:
        return int(getattr(opened, "n_frames", 1))
    except Exception:  # of many types: what follows a whole first frame may be damaged
        return 1


def _upright(picture: Image.Image, opened: Image.Image) -> Image.Image:
    """Turned as the file's EXIF says; a damaged EXIF is none."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # of many types: Pillow's TIFF reader on arbitrary bytes
        return picture
    return picture if turn is None else picture.transpose(turn)
