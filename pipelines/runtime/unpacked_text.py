"""A table of embeddings as arrays that the processes of a node share.

The paper's 97,676 texts take 2.6 GB in a process. Unpacked into files of the node's temporary
folder ($TMPDIR) and mapped, they take it once, from the page cache, where the kernel may drop them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.runtime.run_dir import ArtifactError, RunDir

KEPT = 3 * 24 * 3600
"""Seconds after its last opening for which an unpacked table is kept; what is mapped stays."""


class NamedColumns(NamedTuple):
    """ids [n]; lengths int32 [n]; tokens float32 [sum of lengths, D]; pooled float32 [n, D]."""

    ids: list[str]
    lengths: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]


def joined(groups: Iterable[NamedColumns]) -> NamedColumns:
    """In memory."""
    parts = list(groups)
    if not parts:
        none = np.zeros((0, 0), np.float32)
        return NamedColumns([], np.zeros(0, np.int32), none, none)
    lengths, tokens, pooled = (np.concatenate([p[i] for p in parts]) for i in (1, 2, 3))
    return NamedColumns([i for p in parts for i in p.ids], lengths, tokens, pooled)


def unpacked(
    run_dir: RunDir, name: str, groups: Callable[[], Iterable[NamedColumns]]
) -> NamedColumns:
    """Mapped; unpacked first, by one process of the node, unless it is there.

    Raises ArtifactError if there is no room, or the folder is another user's.
    """
    home = _home()
    folder = home / hashlib.sha256(run_dir.version(name).encode()).hexdigest()[:24]
    try:
        with _lock_of(folder).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _sweep(home)
                _unpack(folder, groups())
            os.utime(folder)
            return _mapped(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ArtifactError(
            f"{run_dir.url(name)}: no room to unpack its {run_dir.size(name) / 2**30:.1f} GiB in"
            f" {home}: make room, or set TMPDIR to a folder of a larger disk"
        ) from error


def _home() -> Path:
    home = Path(tempfile.gettempdir(), f"denoised-weights-{os.getuid()}")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise ArtifactError(f"{home} is another user's: set TMPDIR to a folder of your own")
    return home


def _sweep(home: Path) -> None:
    """Remove what nobody has opened for long."""
    for old in home.iterdir():
        if not old.is_dir() or time.time() - old.stat().st_mtime <= KEPT:
            continue
        with _lock_of(old).open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody opens it now
            shutil.rmtree(old, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _unpack(folder: Path, groups: Iterable[NamedColumns]) -> None:
    """Under another name until it is whole."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        ids: list[str] = []
        lengths = []
        with (part / "tokens").open("wb") as tokens, (part / "pooled").open("wb") as pooled:
            for group in groups:
                ids += group.ids
                lengths.append(group.lengths)
                tokens.write(np.ascontiguousarray(group.tokens).data)
                pooled.write(np.ascontiguousarray(group.pooled).data)
        (part / "ids").write_text("\n".join(ids))
        np.concatenate(lengths).astype(np.int32).tofile(part / "lengths")
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _mapped(folder: Path) -> NamedColumns:
    ids = (folder / "ids").read_text().split("\n")
    lengths = np.fromfile(folder / "lengths", np.int32)
    pooled = np.memmap(folder / "pooled", np.float32, "r").reshape(len(ids), -1)
    tokens = np.memmap(folder / "tokens", np.float32, "r").reshape(-1, pooled.shape[1])
    return NamedColumns(ids, lengths, tokens, pooled)
