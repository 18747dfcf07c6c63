"""Source pictures by their ids: drawn portraits, or the pictures of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from modeling.editors.avatars import portrait, render
from modeling.editors.interface import Source
from modeling.images.encoding import decode_image
from modeling.images.error import ImageError
from modeling.images.folder import PictureFolder

AVATARS = "avatars"


class ChangedPictureError(ValueError):
    """A picture is another one than was recorded; the message names it."""


def source_ids(source: str | Path, count: int = 0, first_seed: int = 0) -> list[str]:
    """List the ids of the first `count` source pictures.

    source: "avatars" (portraits of the seeds first_seed, first_seed + 1, ...) or a folder of
    pictures, whose ids are file names; count 0 takes the whole folder.
    Raises ImageError when a folder is missing or too small, or avatars are asked for without
    a count.
    """
    if count < 0 or first_seed < 0:
        raise ImageError(f"count and first_seed must not be negative: {count}, {first_seed}")
    if str(source) == AVATARS:
        if count == 0:
            raise ImageError("say how many avatars: they have no end, so count must be 1 or more")
        return [f"avatar-{seed:07d}" for seed in range(first_seed, first_seed + count)]
    names = [file.image_id for file in PictureFolder(source).listing().pictures]
    if count > len(names):
        raise ImageError(f"{count} pictures wanted, but {source} holds {len(names)}")
    return names[: count or None]


def load_source(image_id: str, source: str | Path, size: int, digest: str = "") -> Source:
    """Load one source by its id at [size, size, 3].

    digest: what `digest_of` said of the file's bytes; "" where nobody knows.
    Raises ImageError for a corrupt or missing file and for an id that is not of this source,
    ChangedPictureError for other bytes than the digest's.
    """
    if str(source) == AVATARS:
        prefix, _, digits = image_id.partition("-")
        if prefix != "avatar" or not (digits.isascii() and digits.isdigit()):
            raise ImageError(f"{image_id!r} is no avatar's id (avatar-0000000)")
        return Source(image_id, render(portrait(int(digits)), size), int(digits))
    data = PictureFolder(source).read(image_id)
    if digest and digest != digest_of(data):
        raise ChangedPictureError(f"{source}/{image_id} is not the picture it was")
    try:
        return Source(image_id, decode_image(data, size))
    except ImageError as error:
        raise ImageError(f"{source}/{image_id}: {error}") from error


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def avatar_sources(count: int, size: int, first_seed: int = 0) -> Iterator[Source]:
    """Yield `count` portraits, each drawn when it is asked for."""
    ids = source_ids(AVATARS, count, first_seed)
    return (load_source(image_id, AVATARS, size) for image_id in ids)


def folder_sources(path: str | Path, size: int) -> Iterator[Source]:
    """Yield the pictures of a folder in the order of their names; raises ImageError."""
    ids = source_ids(path)
    return (load_source(image_id, path, size) for image_id in ids)


# Name -> the function that yields sources, for callers that need no ids.
SOURCES: dict[str, Callable[..., Iterator[Source]]] = {
    AVATARS: avatar_sources,
    "folder": folder_sources,
}
