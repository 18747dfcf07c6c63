"""The files of a stage: what they are, what is recorded of them, and whether both still agree.

A file's record is "SIZE:CRC", in a store that stamps contents "SIZE:CRC:STAMP". Contents are
checked where they are written: what this process or its actors wrote is not read once more, and of
what an earlier command wrote to such a store the stamp alone is taken, "SIZE::STAMP".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipelines.runtime import ledger
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_table import Stage

PLAIN = re.compile(r"[0-9a-f]{32}|[A-Za-z0-9+/]{22}==|[A-Za-z0-9+/]{6}==")
"""A stamp that follows from contents alone: MD5 (ETag of a file written at once, md5Hash), crc32c.
An ETag with a dash follows from the parts, too, in which a file was written."""
NAMED = 256
"""Files that a stage's marker names itself; more are in a table beside it, as a command reads the
markers of all stages that it builds on."""


def table_of(name: str) -> str:
    """Columns file and record."""
    return f"stages/{name}.files.parquet"


def inventory(
    run: RunDir,
    stage: Stage,
    verify: str = "content",
    recorded: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The record of every file the stage wrote; with verify "size" "SIZE:".

    One listing an output has all sizes and stamps. In a store only a file is read whose stamp is
    not the recorded one.
    """
    listed = {n: one for out in stage.outputs for n, one in run.listing(out).items()}
    if verify == "size":
        return {name: f"{one.size}:" for name, one in listed.items()}

    def told(name: str) -> str:
        size, stamp = listed[name]
        before, written = recorded.get(name, "::"), ledger.known(run.url(name), size)
        then, crc, stamped = _parts(before)
        if stamp and (then, stamped) == (str(size), stamp):
            return before
        if PLAIN.fullmatch(stamp) and not written and not crc:  # nothing to compare contents with
            return f"{size}::{stamp}"
        written = written or run.checksum(name, size)
        return f"{written}:{stamp}" if stamp else written

    if run.local:
        return {name: told(name) for name in listed}
    with ThreadPoolExecutor(READERS) as threads:
        return dict(zip(listed, threads.map(told, listed), strict=True))


def unchanged(recorded: str, now: str | None) -> bool:
    """Equal as far as both say; None: the file is gone."""
    if now is None:
        return False
    (size, crc, stamp), (size_now, crc_now, stamp_now) = _parts(recorded), _parts(now)
    if crc and crc_now:
        return size == size_now and crc == crc_now
    if PLAIN.fullmatch(stamp) and PLAIN.fullmatch(stamp_now):
        return size == size_now and stamp == stamp_now
    return size == size_now


def _parts(record: str) -> tuple[str, str, str]:
    size, crc, stamp = (*record.split(":"), "", "")[:3]
    return size, crc, stamp


def told_by(record: str) -> str:
    """Size, and what tells contents apart: their CRC, else the store's stamp."""
    size, crc, stamp = _parts(record)
    return f"{size}:{crc or stamp}"


def record_files(run: RunDir, name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """What the marker says of the files: they themselves, or nothing, and a table does."""
    if len(files) <= NAMED:
        run.delete(table_of(name))
        return {"files": dict(files)}
    write_known(run, name, files)
    return {}


def files_of(run: RunDir, marker: Mapping[str, Any]) -> dict[str, str]:
    """File → record, of a finished stage; ArtifactError if their table is missing."""
    name = marker.get("stage", "")
    if "files" in marker and not (name and run.exists(table_of(name))):
        return dict(marker["files"])
    return known_files(run, name)


def known_files(run: RunDir, name: str) -> dict[str, str]:
    """Those of the table."""
    table = run.read_table(table_of(name))
    return dict(zip(table["file"].to_pylist(), table["record"].to_pylist(), strict=True))


def write_known(run: RunDir, name: str, files: Mapping[str, str]) -> None:
    """A table beside the marker, which goes before what the marker says."""
    table = pa.table({"file": list(files.keys()), "record": list(files.values())})
    run.write_table(table_of(name), table)
