"""What the finished rows of a stage came to, in a few tables beside its marker.

A concept's own small file says the same and is what counts. But whoever wants that of all concepts
(a stage that goes on, the one after it, the report) would ask a store for 97,000 of them; so the
command that hears it from its actors writes it down, a table a while, and one in the end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipelines.runtime import ledger
from pipelines.runtime.run_dir import READERS, ArtifactError, Listed, RunDir

EVERY = 30.0
"""Seconds between tables: as much is read again, one by one, after a command was killed."""
MANY = 50
"""Tables before they are made one."""
GONE = (-1, "null")
"""Of a file that is no longer there: no size is ever this."""
Note = dict[str, Any]
SCHEMA = pa.schema([("file", pa.string()), ("size", pa.int64()), ("note", pa.string())])


def folder_of(stage: str) -> str:
    """Tables of SCHEMA: the row's own file, its size, and the note as JSON."""
    return f"stages/{stage}.rows"


class RowNotes:
    """The notes on a stage's rows: those of earlier commands, and those that come in.

    A note holds as long as the row's own file has the size that it had then. A stage notes which
    files are gone before it makes them again, in `with`; what else befalls a file is the
    inventory's to find.
    """

    def __init__(self, run_dir: RunDir, stage: str) -> None:
        self.run_dir, self.folder = run_dir, folder_of(stage)
        self.tables = run_dir.files(self.folder)
        self.known: dict[str, tuple[int, str]] = {}
        self.new: dict[str, tuple[int, str]] = {}
        with ThreadPoolExecutor(READERS) as threads:
            for rows in threads.map(self._read, self.tables):
                self.known |= {row["file"]: (row["size"], row["note"]) for row in rows}
        self.lock = threading.RLock()
        self.timer: threading.Timer | None = None

    def _read(self, name: str) -> list[dict[str, Any]]:
        try:
            return self.run_dir.read_columns(name, SCHEMA.names)
        except ArtifactError:
            return []  # lost, or damaged: its rows' own files are read instead

    def __enter__(self) -> RowNotes:
        self.write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
            if error is None:
                self._close()
                return
            with suppress(ArtifactError):  # the error that is on its way says more
                self.write()

    def of(
        self,
        files: Mapping[str, str],
        listed: Mapping[str, Listed],
        read: Callable[[str], Note | None],
    ) -> dict[str, Note | None]:
        """The note of each key of `files`, which names its file; None of a file that is not listed.

        What no table tells is `read` by the key, READERS at once, and noted.
        """
        found = {
            key: json.loads(self.known[file][1])
            for key, file in files.items()
            if file in self.known and file in listed and self.known[file][0] == listed[file].size
        }
        gone = [file for file in files.values() if file in self.known and file not in listed]
        self.new |= dict.fromkeys(gone, GONE)
        unknown = [key for key, file in files.items() if key not in found and file in listed]
        with ThreadPoolExecutor(READERS) as threads:
            for key, note in zip(unknown, threads.map(read, unknown), strict=True):
                if note is not None:
                    found[key] = note
                    self.new[files[key]] = (listed[files[key]].size, json.dumps(note))
        return {key: found.get(key) for key in files}

    def add(self, file: str, note: Note) -> None:
        """A row's, whose file an actor has just written."""
        size = ledger.size_of(self.run_dir.url(file))
        if size is None:
            return
        with self.lock:
            self.new[file] = (size, json.dumps(note))
            if self.timer is None:  # rows come in bursts, perhaps hours apart
                self.timer = threading.Timer(EVERY, self._due)
                self.timer.daemon = True
                self.timer.start()

    def _due(self) -> None:
        with self.lock, suppress(ArtifactError):  # said by whatever is written next
            self.timer = None
            self.write()

    def write(self) -> None:
        """What has come in since the last time."""
        with self.lock:
            if not self.new:
                return
            if len(self.tables) >= MANY:
                self._close()
                return
            name = self._write(self.new)
            self.tables.append(name)
            self.known |= self.new
            self.new = {}

    def _close(self) -> None:
        """All notes in one table."""
        if not self.new and len(self.tables) < 2:
            return
        kept = {file: one for file, one in (self.known | self.new).items() if one != GONE}
        whole = self._write(kept)
        for name in self.tables:
            self.run_dir.delete(name)
        self.tables, self.known, self.new = [whole], kept, {}

    def _write(self, notes: Mapping[str, tuple[int, str]]) -> str:
        """The table's name: they are read in their order, and the last that notes a file counts."""
        last = int(self.tables[-1].rpartition("/")[2].partition(".")[0]) if self.tables else -1
        name = f"{self.folder}/{last + 1:08d}.parquet"
        rows = [{"file": file, "size": size, "note": note} for file, (size, note) in notes.items()]
        self.run_dir.write_table(name, pa.Table.from_pylist(rows, SCHEMA))
        return name
