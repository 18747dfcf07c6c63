"""Encoded images in and out: PNG bytes and any file Pillow reads, as uint8 RGB arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 64_000_000


class ImageError(ValueError):
    """An image, or a folder of images, that cannot be used; the message says why."""


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


def decode_image(data: bytes, size: int | None = None) -> np.ndarray:
    """Decode an encoded image into uint8 RGB [H, W, 3].

    The EXIF orientation is applied and transparency is laid on white. With `size`, the picture
    is cropped to its central square and resampled (Lanczos, antialiased) to [size, size, 3].

    Raises ImageError when the bytes are no image, are cut short, or hold more than MAX_PIXELS.
    """
    if size is not None and size < 1:
        raise ImageError(f"size must be at least 1 pixel, not {size}")
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"the image is too large: {width} x {height} is over {MAX_PIXELS} pixels"
                )
            picture = _to_rgb(ImageOps.exif_transpose(opened))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt input
        raise ImageError(f"the image cannot be decoded: {error}") from error
    if 0 in picture.size:
        raise ImageError(f"the image has no pixels: {picture.size[0]} x {picture.size[1]}")
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).copy()


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name.

    Raises ImageError when the folder is missing or holds no image.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ImageError(f"the image folder {path} does not exist or is no folder")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise ImageError(f"the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # Pillow's own conversion clips 16-bit grey to white
        grey = (np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")
