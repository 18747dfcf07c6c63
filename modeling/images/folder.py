"""A folder of pictures, on a disk or any fsspec URI: which of its files are taken, and why not.

A picture's id is its file's name. Bytes of a name that are not UTF-8 stand in the id as \\xNN.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import features

from modeling.images.error import ImageError
from modeling.reasons import one_line

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm"),
    *((".avif",) if features.check("avif") else ()),  # a Pillow may be built without
)
HIDDEN, FOLDER, NOWHERE, OTHER = "hidden", "sub-folder", "link to nowhere", "no ordinary file"
TWICE, UNNAMED = "name taken twice", "file without a suffix"


class File(NamedTuple):
    """An ordinary file directly in a folder; size in bytes."""

    image_id: str
    size: int


class Listing(NamedTuple):
    """pictures: sorted by id. left_out: reason, such as ".heic" or "sub-folder" → how many."""

    pictures: list[File]
    left_out: dict[str, int]


class PictureFolder:
    """The files directly in one folder; those of its sub-folders are not looked at.

    Raises ImageError where the folder, or a file asked for, is missing or cannot be read.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = str(where)
        self.remote = "://" in self.where
        if self.remote:
            import fsspec

            try:
                # no cached listings: a folder may change while a run is going on
                self.fs, self.root = fsspec.core.url_to_fs(self.where, use_listings_cache=False)
            except (ValueError, ImportError) as error:  # no such protocol, or its package
                raise ImageError(f"the image folder {where}: {one_line(error)}") from error

    def listing(self) -> Listing:
        """Its pictures; ImageError if there are none."""
        pictures, left_out = [], Counter[str]()
        taken = set()
        for file, reason in sorted(self._entries()):
            reason = reason or unwanted(file.image_id)
            if not reason and file.image_id in taken:
                reason = TWICE
            if reason:
                left_out[reason] += 1
                continue
            taken.add(file.image_id)
            pictures.append(file)
        if not pictures:
            there = f"; there are: {in_words(left_out)}" if left_out else ""
            raise ImageError(
                f"the folder {self.where} holds no image ({', '.join(IMAGE_SUFFIXES)}){there}"
            )
        return Listing(pictures, dict(left_out))

    def sizes(self) -> dict[str, int]:
        """Bytes of every ordinary file by its id, pictures or not."""
        return {file.image_id: file.size for file, reason in self._entries() if not reason}

    def read(self, image_id: str) -> bytes:
        """The bytes of a file directly in the folder."""
        if Path(image_id).name != image_id:
            raise ImageError(f"{image_id!r} is no file name inside {self.where}")
        try:
            if self.remote:
                return bytes(self.fs.cat_file(f"{self.root.rstrip('/')}/{image_id}"))
            return self.path(image_id).read_bytes()
        except Exception as error:  # a store's client has types of its own
            if not (self.remote or isinstance(error, OSError)):
                raise
            reason = getattr(error, "strerror", None) or one_line(error)
            raise ImageError(f"{self.where}/{image_id} cannot be read: {reason}") from error

    def path(self, image_id: str) -> Path:
        """A file of a folder on a disk."""
        path = Path(self.where) / image_id
        if "\\x" in image_id and not path.exists():
            name = re.sub(
                rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), _raw(image_id)
            )
            return Path(self.where) / os.fsdecode(name)
        return path

    def _entries(self) -> Iterator[tuple[File, str]]:
        """Whatever lies in the folder; the text says why it is no ordinary file, "" if it is."""
        try:
            yield from self._remote() if self.remote else self._local()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageError(
                f"the image folder {self.where} does not exist or is no folder"
            ) from error
        except Exception as error:  # a store's client has types of its own
            if not (self.remote or isinstance(error, OSError)):
                raise
            reason = getattr(error, "strerror", None) or one_line(error)
            raise ImageError(f"the image folder {self.where} cannot be read: {reason}") from error

    def _local(self) -> Iterator[tuple[File, str]]:
        with os.scandir(self.where) as entries:
            for entry in entries:
                image_id = _raw(entry.name).decode("utf-8", "backslashreplace")
                try:
                    kind = "" if entry.is_file() else FOLDER if entry.is_dir() else OTHER
                    size = entry.stat().st_size
                except OSError:  # also a link to itself
                    kind, size = NOWHERE, 0
                yield File(image_id, size), kind

    def _remote(self) -> Iterator[tuple[File, str]]:
        for entry in self.fs.ls(self.root, detail=True):
            path = str(entry["name"]).rstrip("/")
            if path == self.root.rstrip("/"):
                if entry["type"] == "file" and entry.get("size"):
                    raise NotADirectoryError(path)
                continue  # an object store's sign that there is a folder
            kind = {"file": "", "directory": FOLDER}.get(entry["type"], OTHER)
            yield File(path.rpartition("/")[2], int(entry.get("size") or 0)), kind


def list_images(folder: str | Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name.

    Raises ImageError when the folder is missing or holds no image.
    """
    listed = PictureFolder(folder)
    return [listed.path(file.image_id) for file in listed.listing().pictures]


def in_words(left_out: dict[str, int], most: int = 8) -> str:
    """Reasons and counts, the most frequent first: "20 hidden, 3 .heic"."""
    ranked = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count} {reason}" for reason, count in ranked[:most]]
    rest = sum(count for _, count in ranked[most:])
    return ", ".join(words + ([f"{rest} others"] if rest else []))


def _raw(name: str) -> bytes:
    return os.fsencode(name)


def unwanted(name: str) -> str:
    """Why an ordinary file is not taken for a picture; "" if it is."""
    if name.startswith("."):  # such as ._IMG_1.jpg, where macOS keeps what it knows of a file
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    return "" if suffix in IMAGE_SUFFIXES else suffix or UNNAMED
