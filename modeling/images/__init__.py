"""Pictures as files and as arrays."""

from modeling.images.encoding import (
    MAX_PIXELS,
    Opened,
    decode_image,
    encode_jpeg,
    encode_like,
    encode_png,
    open_picture,
)
from modeling.images.error import ImageError
from modeling.images.folder import IMAGE_SUFFIXES, PictureFolder, list_images
from modeling.images.tree import PictureTree

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageError",
    "Opened",
    "PictureFolder",
    "PictureTree",
    "decode_image",
    "encode_jpeg",
    "encode_like",
    "encode_png",
    "list_images",
    "open_picture",
]
