"""The files of a stage: what they are, what is recorded of them, and whether both still agree.

A file's record is "SIZE:CRC", in a store that stamps contents "SIZE:CRC:STAMP". Contents are
checked where they are written: what this process or its actors wrote is not read once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipelines.runtime import ledger
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_table import Stage

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

    What is recorded with the stamp that it has is not read. One listing an output has all sizes
    and stamps.
    """
    listed = {n: one for out in stage.outputs for n, one in run.listing(out).items()}
    if verify == "size":
        return {name: f"{one.size}:" for name, one in listed.items()}

    def told(name: str) -> str:
        size, stamp = listed[name]
        written = ledger.known(run.url(name), size)
        before = recorded.get(name, "").split(":")
        if stamp and not written and len(before) == 3 and before[::2] == [str(size), stamp]:
            return recorded[name]
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
    (size, crc), (size_now, crc_now) = (text.split(":")[:2] for text in (recorded, now))
    return size == size_now and (crc == crc_now or not crc or not crc_now)


def record_files(run: RunDir, name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """What the marker says of the files: they themselves, or nothing, and a table does."""
    if len(files) <= NAMED:
        run.delete(table_of(name))
        return {"files": dict(files)}
    table = pa.table({"file": list(files.keys()), "record": list(files.values())})
    run.write_table(table_of(name), table)
    return {}


def files_of(run: RunDir, marker: Mapping[str, Any]) -> dict[str, str]:
    """File → record, of a finished stage; ArtifactError if their table is missing."""
    if "files" in marker:
        return dict(marker["files"])
    table = run.read_table(table_of(marker["stage"]))
    return dict(zip(table["file"].to_pylist(), table["record"].to_pylist(), strict=True))
