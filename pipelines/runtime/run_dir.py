"""The run directory: where every stage reads and writes, on a local disk or any fsspec URI.

Writes are atomic: a file exists with all its bytes or not at all (temporary file + rename on a
disk; an object store's single PUT is atomic by itself). No pickle is read or written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from modeling.reasons import one_line
from pipelines.config.paths import check_uri
from pipelines.runtime import ledger

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What a folder answers that is not ours to write, such as a checkout in a read-only image."""


FOOTER = 2**16
"""Bytes at a Parquet file's end that nearly always hold its footer."""
READERS = 32
"""Threads that read small files: an object store answers each after a tenth of a second."""
FIRST_WAIT = 0.5
"""Seconds until a store is asked again; doubled each time."""
ATTEMPTS = 6
PATIENT = 12
"""Attempts, two minutes of them, once a store has answered this process: it is away for a while."""
LATER = (
    *("slowdown", "slow down", "reduce your request rate", "throttl", "too many requests"),
    *("timed out", "timeout", "temporarily", "unavailable", "connection reset"),
    *(
        "internal error",
        "internalerror",
        "internal server error",
        "http 429",
        "http 500",
        "http 503",
    ),
)
"""What stores say, whatever the type of the error, when the same may succeed later."""
AWAY = (
    *("could not connect", "cannot connect", "connection refused", "connection was closed"),
    *("server disconnected", "connection aborted", "broken pipe", "network is unreachable"),
)
"""Said of a store that is not there: of one that has never answered, the address may be wrong."""
ANSWERS = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError),
    *(NotImplementedError, TypeError, pa.ArrowException),
)
"""Not failures of a store: what is there, and what it cannot do."""

REFUSED = ("PreconditionFailed", "412")
"""What S3 answers to If-None-Match where a file is. s3fs knows it only by the name of the condition
beside it, which Amazon sends, and SeaweedFS does not."""

T = TypeVar("T")


_reached: set[str] = set()
"""Stores that have answered this process, by the URI of the run."""


def _passes(error: BaseException, known: bool) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    words = (*LATER, *AWAY) if known else LATER
    return not isinstance(error, ANSWERS) and any(word in text for word in words)


def _held_back(error: BaseException | None) -> bool:
    """Whether a store has refused a conditional write, whose condition not all of them name."""
    while error is not None:
        told = getattr(error, "response", None)
        if isinstance(told, dict) and told.get("Error", {}).get("Code") in REFUSED:
            return True
        error = error.__cause__
    return False


class ArtifactError(RuntimeError):
    """An artifact is missing or damaged; the text names the file."""


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


class Listed(NamedTuple):
    """What a listing says of a file."""

    size: int
    stamp: str
    """Changes with the contents, by the store's own word (ETag, MD5, CRC-32C); "" on a disk."""


def _stamp(info: Mapping[str, Any]) -> str:
    given = next((info[key] for key in ("md5Hash", "crc32c", "ETag", "etag") if info.get(key)), "")
    return str(given).strip('"').replace(":", "")


class RunDir:
    """Files under one directory, named by relative POSIX paths. Cheap to pickle: only the URI.

    word: the one that gave the URI, for errors: ConfigError if it is none, ArtifactError if
    nothing can open its kind.
    """

    def __init__(self, uri: str, word: str = "run_dir") -> None:
        check_uri(word, uri)
        self.word, self.attempts = word, PATIENT
        remote = "://" in uri
        self.uri = uri.rstrip("/") if remote else os.path.abspath(os.path.expanduser(uri))
        self._connect()

    def _connect(self) -> None:
        try:
            # no cached listings: other processes write here
            self.fs, self.root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
        except (ValueError, ImportError) as error:  # no such protocol, or its package is missing
            raise ArtifactError(f"{self.word}={self.uri}: {error}") from error
        self.local = isinstance(self.fs, LocalFileSystem)
        # s3fs asks for a file's size before it reads it, to read a large one in parallel
        self.once = {"max_concurrency": 1} if "s3" in self.fs.protocol else {}

    def hurried(self) -> RunDir:
        """The same for what may not wait: a store that is away is given up as one never seen."""
        other = RunDir(self.uri, self.word)
        other.attempts = ATTEMPTS
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "word": self.word, "attempts": self.attempts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def path(self, name: str) -> str:
        """Path inside the file system (no scheme)."""
        return f"{self.root}/{name}"

    def url(self, name: str) -> str:
        """Full URI, for Ray and people."""
        return f"{self.uri}/{name}"

    def _asked(self, what: str, name: str, call: Callable[..., T], *args: Any, **keys: Any) -> T:
        """A call of the file system; a store's errors, which have types of its own, in a sentence.

        A store that throttles, or does not answer in time, is asked again; so is one that has
        answered before and is not there now. what: "read".
        """
        if self.local:
            return call(*args, **keys)
        known = self.uri in _reached
        asked = Retrying(
            retry=retry_if_exception(lambda error: _passes(error, known)),
            wait=wait_exponential(multiplier=FIRST_WAIT, max=30 * FIRST_WAIT),
            stop=stop_after_attempt(self.attempts if known else ATTEMPTS),
            reraise=True,
        )
        try:
            answer = asked(call, *args, **keys)
            _reached.add(self.uri)
            return answer
        except ANSWERS as error:
            if isinstance(error, OSError):
                _reached.add(self.uri)
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise ArtifactError(f"{self.url(name)} cannot be {what}: {reason}") from error

    def exists(self, name: str) -> bool:
        # not fs.exists, which takes every error for a no
        try:
            self._asked("read", name, self.fs.info, self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _info(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._asked("read", name, self.fs.info, self.path(name)))
        except FileNotFoundError as error:
            raise self._missing(name) from error

    def _missing(self, name: str) -> ArtifactError:
        return ArtifactError(f"{self.url(name)} is missing: run the stage that writes it")

    def size(self, name: str) -> int:
        """Bytes of a file; ArtifactError as `read`."""
        return int(self._info(name)["size"])

    def version(self, name: str) -> str:
        """What a file is, by its size and stamp, on a disk by its inode: for copies of it.

        Equal for hard links of one file.
        """
        info = self._info(name)
        if self.local:
            there = os.stat(self.path(name))
            return f"{there.st_dev} {there.st_ino} {there.st_size} {there.st_mtime_ns}"
        times = ("LastModified", "updated", "last_modified", "created")
        changed = _stamp(info) or next((info[key] for key in times if info.get(key)), "")
        return f"{self.url(name)} {info['size']} {changed}"

    def read(self, name: str, large: bool = False) -> bytes:
        """Bytes of a file; ArtifactError if it is not there, or its store does not give it.

        large: its size is worth a request, as several then read at once.
        """
        options = {} if large else self.once
        try:
            return bytes(self._asked("read", name, self.fs.cat_file, self.path(name), **options))
        except FileNotFoundError as error:
            raise self._missing(name) from error

    def write(self, name: str, data: bytes) -> None:
        """Atomic write; a failed one leaves what was there before.

        ArtifactError names the file that a full disk, a lacking right or an object store refused.
        """
        if not self.local:
            self._asked("written", name, self.fs.pipe_file, self.path(name), data)
        else:
            with self.writing(name) as file:
                file.write(data)
            return
        ledger.wrote(self.url(name), data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file for what is written piece by piece: there, atomically, when the block ends well.

        Raises as `write`. For an object store the pieces wait on the local disk.
        """
        if not self.local:
            with tempfile.NamedTemporaryFile() as spool:
                yield spool
                spool.flush()
                ledger.wrote_file(self.url(name), Path(spool.name))
                self._asked("written", name, self.fs.put_file, spool.name, self.path(name))
            return
        target = Path(self.path(name))
        # hidden, so that a listing never sees it
        part = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            ledger.wrote_file(self.url(name), part)
            os.replace(part, target)
        except OSError as error:
            if error.filename is not None and Path(error.filename) not in (part, *target.parents):
                raise  # the block's own, from another file
            reason = error.strerror or error
            raise ArtifactError(
                f"{target} cannot be written: {reason}; the same command goes on once it can"
                + (", or give another run_dir" if error.errno in FORBIDDEN else "")
            ) from error
        finally:
            with suppress(OSError):  # its folder may be what could not be made
                part.unlink()

    def write_files(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Several files as one unit: `last` is written last, so with it all are there.

        What a process that was killed in the middle of it has left in the folder goes.
        """
        if self.local:
            for part in Path(self.path(folder)).glob(".*.part"):
                part.unlink(missing_ok=True)
        for name, data in files.items():
            if name != last:
                self.write(f"{folder}/{name}", data)
        self.write(f"{folder}/{last}", files[last])

    def files(self, folder: str) -> list[str]:
        """Relative paths of all files under a folder, sorted; hidden ones left out."""
        return list(self.listing(folder))

    def listing(self, folder: str) -> dict[str, Listed]:
        """The same with what the listing says of each, which asks for no file by itself."""
        if self.local and not self.exists(folder):
            return {}
        try:
            there = self._asked("read", folder, self.fs.find, self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        found = {
            path[len(self.root) + 1 :]: info
            for path, info in sorted(there.items())
            # a store's folders: an empty object of that name, or of that name and a slash
            if info["size"] or not (path.endswith("/") or path == self.path(folder))
        }
        return {
            name: Listed(int(info["size"] or 0), _stamp(info))
            for name, info in found.items()
            if not any(part.startswith(".") for part in name.split("/"))
        }

    def delete(self, name: str) -> None:
        if self.exists(name):
            with suppress(FileNotFoundError):  # another was first, or an answer was lost
                self._asked("deleted", name, self.fs.rm, self.path(name), recursive=True)

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise ArtifactError(f"{self.url(name)} is damaged: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_table(
        self, name: str, columns: list[str] | None = None, large: bool = False
    ) -> pa.Table:
        """A whole Parquet file; ArtifactError names it if it is missing or damaged."""
        data = self.read(name, large)
        try:
            return pq.read_table(pa.BufferReader(data), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{self.url(name)} is damaged: {error}") from error

    def read_columns(self, name: str, columns: list[str]) -> list[dict[str, Any]]:
        """Rows of some columns of a Parquet file, without the bytes of the others."""
        with self._parquet(name, cache_type="none") as file:
            table = self._asked("read", name, pq.ParquetFile(file).read, columns)
        return list(table.to_pylist())

    def read_row_groups(self, name: str) -> Iterator[pa.Table]:
        """A Parquet file piece by piece, never whole in memory; raises ArtifactError."""
        with self._parquet(name) as file:
            parquet = pq.ParquetFile(file)
            for i in range(parquet.num_row_groups):
                yield self._asked("read", name, parquet.read_row_group, i)

    def read_schema(self, name: str) -> pa.Schema:
        """Schema and metadata of a Parquet file, from its footer alone; raises ArtifactError."""
        if not self.local:
            try:  # one request, for which no size has to be known
                tail = self._asked("read", name, self.fs.cat_file, self.path(name), start=-FOOTER)
                return pq.read_schema(pa.BufferReader(tail))
            except FileNotFoundError as error:
                raise self._missing(name) from error
            except (pa.ArrowException, OSError):
                pass  # damaged, or with a larger footer: below
        with self._parquet(name) as file:
            return self._asked("read", name, pq.read_schema, file)

    @contextmanager
    def _parquet(self, name: str, **options: str) -> Iterator[IO[bytes]]:
        try:
            options = {} if self.local else options
            with self._asked("read", name, self.fs.open, self.path(name), "rb", **options) as file:
                yield file
        except FileNotFoundError as error:
            raise self._missing(name) from error
        except (pa.ArrowException, OSError) as error:
            raise ArtifactError(f"{self.url(name)} is damaged: {error}") from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; False if it is.

        Conditional in an object store, where that is possible (If-None-Match); NotImplementedError
        or TypeError where it is not known to be. Raises ArtifactError as `write`.
        """
        path = self.path(name)
        try:
            if not self.local:
                self._asked("written", name, self.fs.pipe_file, path, data, mode="create")
                return True
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("xb") as file:
                file.write(data)
            return True
        except ArtifactError as error:
            if _held_back(error):
                return False
            raise
        except OSError as error:
            no_folder = self.local and Path(path).parent.is_file()
            if isinstance(error, FileExistsError) and not no_folder:
                return False
            reason = error.strerror or error
            raise ArtifactError(f"{self.url(name)} cannot be written: {reason}") from error

    def write_table(self, name: str, table: pa.Table) -> None:
        self.write(name, parquet_bytes(table))

    def checksum(self, name: str, size: int = 0) -> str:
        """Size and CRC-32 of a file: enough to notice truncation, bit rot or a foreign file.

        size: as far as it is known, so that a large one is not read whole.
        """
        read, crc = 0, 0
        for piece in self._pieces(name, size):
            read, crc = read + len(piece), zlib.crc32(piece, crc)
        return f"{read}:{crc:08x}"

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        if not self.local and size <= ledger.PIECE:  # one request
            yield self.read(name)
            return
        try:
            with self._asked("read", name, self.fs.open, self.path(name), "rb") as file:
                while piece := self._asked("read", name, file.read, ledger.PIECE):
                    yield piece
        except FileNotFoundError as error:
            raise self._missing(name) from error
