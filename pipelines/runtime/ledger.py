"""What has been written, with its checksum, so that nobody reads a file once more to have one.

Kept while a stage runs: by the command, and by its actors, whose rows bring it along
(pipelines/runtime/actors.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PIECE = 2**22
"""Bytes of a file that are checked at once."""
_kept: dict[str, str] | None = None


@contextmanager
def keeping() -> Iterator[None]:
    """Empty at the block's start, gone at its end."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def keep() -> None:
    """For a process that does nothing else."""
    global _kept
    _kept = {}


def wrote(uri: str, data: bytes) -> None:
    if _kept is not None:
        _kept[uri] = f"{len(data)}:{zlib.crc32(data):08x}"


def wrote_file(uri: str, path: Path) -> None:
    """The same of a file on this machine."""
    if _kept is None:
        return
    size, crc = 0, 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    _kept[uri] = f"{size}:{crc:08x}"


def taken() -> dict[str, str]:
    """URI → "SIZE:CRC" of what was written since the last time."""
    global _kept
    found = _kept or {}
    _kept = {}
    return found


def add(written: dict[str, str]) -> None:
    """What another process has `taken`."""
    if _kept is not None:
        _kept.update(written)


def known(uri: str, size: int) -> str:
    """The record of a file of that size, or ""."""
    record = (_kept or {}).get(uri, "")
    return record if record.partition(":")[0] == str(size) else ""


def size_of(uri: str) -> int | None:
    """Of a file that has been written, in bytes."""
    record = (_kept or {}).get(uri, "")
    return int(record.partition(":")[0]) if record else None
