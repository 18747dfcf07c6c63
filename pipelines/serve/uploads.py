"""Pictures that clients upload: which are taken, and how they are read."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import HTTPException, UploadFile
from PIL import Image, UnidentifiedImageError

from modeling.images import ImageError, Opened, decode_image, open_picture
from pipelines.serve.errors import wrong
from pipelines.serve.runs.served import Limits

# Formats whose decoders are in wide use; Pillow knows others that start external programs
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")


async def read_picture(file: UploadFile, limits: Limits) -> np.ndarray:
    """uint8 [size, size, 3]; HTTPException if it is too large or no image."""
    picture: np.ndarray = await _in_thread(file, limits, decode_image, limits.size)
    return picture


async def open_upload(file: UploadFile, limits: Limits) -> Opened:
    """The same at its own size, with its transparency."""
    opened: Opened = await _in_thread(file, limits, open_picture)
    return opened


async def _in_thread(file: UploadFile, limits: Limits, how: Callable[..., Any], *more: Any) -> Any:
    """Checked and read in one go: each change of threads costs as much as a small picture."""
    data = bytes(await file.read(limits.max_image_bytes + 1))
    return await asyncio.to_thread(_read, data, limits, how, *more)


def _check(data: bytes, limits: Limits) -> None:
    if len(data) > limits.max_image_bytes:
        raise HTTPException(413, f"the image is over {limits.max_image_bytes} bytes")
    try:
        with warnings.catch_warnings():
            # of half of what it refuses; the limit here is the service's own
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        with opened:
            width, height = opened.size  # from the header: nothing is decoded yet
    except Image.DecompressionBombError as error:  # Pillow's own limit, from the header, too
        raise wrong("image", f"the image is over {limits.max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise HTTPException(415, f"not an image of type {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt input
        raise wrong("image", "the image is damaged") from error
    if width * height > limits.max_pixels:
        raise wrong("image", f"{width} × {height} pixels: over {limits.max_pixels}")


def _read(data: bytes, limits: Limits, how: Callable[..., Any], *more: Any) -> Any:
    _check(data, limits)
    try:
        return how(data, *more)
    except ImageError as error:
        raise wrong("image", "the image is damaged") from error
