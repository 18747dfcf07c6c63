"""One command at a time writes to a run directory: a lock that says who, where and since when.

`.lock.json` names the process; its holder renews it. It is taken over when its process can be seen
to be gone (on the same machine, at once) or when it was not renewed for STALE_SECONDS (elsewhere).
No clocks are compared: whether a lock is renewed is watched. An object store creates it by a
conditional write (If-None-Match); one that has none is said, and goes without.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipelines.runtime import stopping
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir

RENEW_SECONDS = 20.0
STALE_SECONDS = 60.0
POLL_SECONDS = 1.0
NAME = ".lock.json"


class RunInUseError(RuntimeError):
    """Another command writes to the run directory; the text says which."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    token: str
    command: str
    host: str
    user: str
    pid: int
    started: str
    """When the process began, in a form that only equality is asked of."""
    machine: str
    """Boot and process namespace: where `pid` means something."""
    since: str
    renewed: int = 0

    def __str__(self) -> str:
        who = f"{self.user}@{self.host}, pid {self.pid}, since {self.since}"
        return f"`denoised-weights {self.command}` ({who})"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{platform.node()} {uuid.getnode()}"


def _started(pid: int) -> str:
    """ "" if there is no such process."""
    try:  # in ticks since the boot: a clock that is set does not change it
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return str(os.getuid())


def _this(words: Sequence[str]) -> Holder:
    return Holder(
        token=uuid.uuid4().hex,
        command=shlex.join(words),
        host=platform.node(),
        user=_user(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        machine=_machine(),
        since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def holder(run: RunDir) -> Holder | None:
    """Who holds a run directory now, or held it when the process was ended without notice."""
    return _read(run, NAME)


@contextmanager
def locked(run: RunDir, words: Sequence[str], folder: str = "") -> Iterator[None]:
    """Hold the lock of a run directory, or of one of its folders, while the block runs.

    words: the command, for others to read. Raises RunInUseError if another command holds it, and
    ArtifactError if it cannot be written. A command whose lock is taken over while it was
    suspended is ended: the run is another's.
    """
    lock = _Lock(run, f"{folder}/{NAME}" if folder else NAME, _this(words))
    if not run.local and not lock.conditional():
        log(
            f"{run.uri}: this store has no conditional writes, so nothing keeps a second command"
            " from writing here: start one at a time"
        )
        yield
        return
    lock.acquire()
    ended = threading.Event()
    renewal = threading.Thread(target=lock.keep, args=(ended,), name="run lock", daemon=True)
    renewal.start()
    try:
        with stopping.cleaned_up(lock.release):
            yield
    finally:
        ended.set()
        renewal.join()
        lock.release()


def _read(run: RunDir, name: str) -> Holder | None:
    """None: not there, not written to its end, or of another version."""
    try:
        return Holder(**json.loads(run.read(name)))
    except (ArtifactError, ValueError, TypeError):
        return None


class _Lock:
    def __init__(self, run: RunDir, name: str, me: Holder) -> None:
        # it may not wait longer for a store than others wait for it to be renewed
        self.run, self.name, self.me = run.hurried(), name, me
        self.writing = threading.Lock()
        self.released = False

    def conditional(self) -> bool:
        """Whether the store refuses to create what is there; tried on a file of its own."""
        probe = f"{self.name}.{self.me.token}.probe"
        try:
            self.run.create(probe, b"")
            refuses = not self.run.create(probe, b"")
        except (NotImplementedError, TypeError):  # a file system without the mode
            return False
        self.run.delete(probe)
        return refuses

    def acquire(self) -> None:
        watched: _Watched | None = None
        while not self.run.create(self.name, self._bytes()):
            holder = self._read()
            if holder is not None and holder.token == self.me.token:
                return  # the store's answer was lost
            if holder is None:
                if self.run.exists(self.name):  # being written, or damaged: as one that is silent
                    holder = replace(self.me, token="", command="", pid=0, machine="", since="?")
                else:
                    continue
            if holder.machine == self.me.machine:
                if _started(holder.pid) == holder.started:
                    raise self._in_use(holder)
                if self._take_over(holder):
                    return
            if watched is None or watched.token != holder.token:
                watched = _Watched(holder.token, holder.renewed, time.monotonic())
                log(
                    f"{self._where()} was last written to by {holder}: watching for"
                    f" {STALE_SECONDS:.0f} s whether that still runs"
                )
            if holder.renewed != watched.renewed:
                raise self._in_use(holder)
            if time.monotonic() - watched.since >= STALE_SECONDS and self._take_over(holder):
                return
            time.sleep(POLL_SECONDS)

    def keep(self, ended: threading.Event) -> None:
        """Renew until `ended`; runs in a thread."""
        while not ended.wait(RENEW_SECONDS):
            try:
                with self.writing:
                    holder = self._read()
                    if holder is not None and holder.token != self.me.token:
                        text = f"{self._in_use(holder)}; this command was taken for dead"
                        stopping.leave(1, text)
                    if self.released:
                        return
                    self.me = replace(self.me, renewed=self.me.renewed + 1)
                    if holder is not None:
                        self.run.write(self.name, self._bytes())
                    else:  # deleted by hand; False: it could not be read just now
                        self.run.create(self.name, self._bytes())
            except (ArtifactError, OSError):
                continue  # a full disk, a store that throttles: the next time

    def release(self) -> None:
        with self.writing, suppress(ArtifactError, OSError):
            holder = self._read()
            if not self.released and holder is not None and holder.token == self.me.token:
                self.run.delete(self.name)
            self.released = True

    def _take_over(self, gone: Holder) -> bool:
        """Put this process in the place of one that is gone; False if another is doing so."""
        claim = f"{self.name}.{gone.token or 'damaged'}.claim"
        if not self.run.create(claim, self._bytes()):
            return self._abandoned(claim)
        try:
            now = self._read()
            if now is not None and now.token != gone.token:
                return False
            self.run.write(self.name, self._bytes())
            return True
        finally:
            self.run.delete(claim)

    def _abandoned(self, claim: str) -> bool:
        """Remove a claim whose process was ended in between; False: start over."""
        until = time.monotonic() + STALE_SECONDS
        while self.run.exists(claim):
            if time.monotonic() > until:
                self.run.delete(claim)
            time.sleep(POLL_SECONDS)
        return False

    def _read(self) -> Holder | None:
        return _read(self.run, self.name)

    def _bytes(self) -> bytes:
        return (json.dumps(asdict(self.me), indent=2) + "\n").encode()

    def _where(self) -> str:
        return self.run.url(self.name).removesuffix(f"/{NAME}")

    def _in_use(self, holder: Holder) -> RunInUseError:
        return RunInUseError(
            f"{self._where()} is in use by {holder}: wait for it, stop it, or give another run_dir"
        )


@dataclass(frozen=True)
class _Watched:
    token: str
    renewed: int
    since: float
