"""Pictures in a folder and below it, on a disk or any fsspec URI."""

from __future__ import annotations

from collections import Counter
from typing import Any

from modeling.images.error import ImageError
from modeling.images.folder import IMAGE_SUFFIXES, in_words, unwanted
from modeling.reasons import one_line


class PictureTree:
    """One picture, or all below a folder; names are relative POSIX paths. Cheap to pickle.

    Raises ImageError where it is missing or cannot be read.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._connect()

    def _connect(self) -> None:
        import fsspec

        try:
            self.fs, root = fsspec.core.url_to_fs(self.where, use_listings_cache=False)
        except (ValueError, ImportError) as error:  # no such protocol, or its package
            raise ImageError(f"images={self.where}: {one_line(error)}") from error
        self.root = str(root).rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.where = state["where"]
        self._connect()

    def listing(self) -> tuple[list[str], dict[str, int]]:
        """Names of the pictures, sorted, and reason → how many files were left out.

        "" is the name of the one picture that `where` is. ImageError if there are none.
        """
        try:
            if self.fs.isfile(self.root):
                return [""], {}
            found = self.fs.find(self.root, withdirs=False)
        except Exception as error:  # a store's client has types of its own
            raise ImageError(f"{self.where} cannot be read: {one_line(error)}") from error
        if not found and not self.fs.isdir(self.root):
            raise ImageError(f"{self.where} does not exist")
        pictures, left_out = [], Counter[str]()
        for path in sorted(found):
            name = str(path)[len(self.root) :].lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            reason = "hidden" if hidden else unwanted(name.rpartition("/")[2])
            if reason:
                left_out[reason] += 1
            else:
                pictures.append(name)
        if not pictures:
            there = f"; there are: {in_words(left_out)}" if left_out else ""
            raise ImageError(f"{self.where} holds no image ({', '.join(IMAGE_SUFFIXES)}){there}")
        return pictures, dict(left_out)

    def read(self, name: str) -> bytes:
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{name}" if name else self.root))
        except Exception as error:  # a store's client has types of its own
            raise ImageError(f"cannot be read: {one_line(error)}") from error
