"""Source pictures by their ids: drawn portraits, or the pictures of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from modeling.editors.avatars import portrait, render
from modeling.editors.interface import Source
from modeling.images import ImageError, decode_image, list_images

AVATARS = "avatars"


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
    names = [path.name for path in list_images(source)]
    if count > len(names):
        raise ImageError(f"{count} pictures wanted, but {source} holds {len(names)}")
    return names[: count or None]


def load_source(image_id: str, source: str | Path, size: int) -> Source:
    """Load one source by its id at [size, size, 3].

    Raises ImageError for a corrupt or missing file and for an id that is not of this source.
    """
    if str(source) == AVATARS:
        prefix, _, digits = image_id.partition("-")
        if prefix != "avatar" or not (digits.isascii() and digits.isdigit()):
            raise ImageError(f"{image_id!r} is no avatar's id (avatar-0000000)")
        return Source(image_id, render(portrait(int(digits)), size), int(digits))
    if Path(image_id).name != image_id:
        raise ImageError(f"{image_id!r} is no file name inside {source}")
    path = Path(source) / image_id
    try:
        return Source(image_id, decode_image(path.read_bytes(), size))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


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
