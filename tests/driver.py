"""A driver as a person starts it: `python -m pipelines …` in a process that a test may kill."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_number = itertools.count()


class Driver:
    """One command in a session of its own; leaving the `with` block ends all that it started."""

    def __init__(self, words: Sequence[str], logs: Path, **environment: str) -> None:
        self.log = logs / f"driver-{next(_number)}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", *words],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=answer_signals,
            )

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = 600) -> str:
        """Wait for the end; AssertionError shows the output unless the exit status is 0."""
        status = self.process.wait(seconds)
        assert status == 0, f"exit status {status}\n{self.output()[-6000:]}"
        return self.output()

    def wait_until(self, happened: Callable[[], bool], seconds: float = 300) -> None:
        """Wait for an event while the driver is at work."""
        limit = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"ended too early\n{self.output()[-6000:]}"
            assert time.monotonic() < limit, f"not within {seconds} s\n{self.output()[-6000:]}"
            time.sleep(0.02)

    def stop(self, number: int, whom: str = "group") -> int:
        """A real signal, and the exit status; AssertionError unless no process is left soon.

        To the driver's process group, as Ctrl-C in a terminal; to the "driver" alone; or to "all"
        processes of the session, as a batch system does.
        """
        if whom == "all":
            for pid in _session_members(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        elif whom == "driver":
            self.process.send_signal(number)
        else:
            os.killpg(self.process.pid, number)
        status = self.process.wait(20)
        limit = time.monotonic() + 10
        while left := [p for p in _processes() if p.session == self.process.pid]:
            assert time.monotonic() < limit, f"still there: {left}"
            time.sleep(0.05)
        return status

    def kill(self) -> None:
        """SIGKILL for the driver's process group, and then for its Ray's workers in theirs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        while left := _session_members(self.process.pid):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)


def answer_signals() -> None:
    """For a new process: what nohup or a shell's background ignores, and tests inherit, it gets."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def children(parent: int) -> set[str]:
    """Names of a process's living children, up to the first bracket."""
    return {p.name.partition("(")[0] for p in _processes() if p.parent == parent}


def descendants(parents: Sequence[int]) -> list[Process]:
    """Living children of some processes, and their children."""
    known, found = list(_processes()), []
    wanted = set(parents)
    while wanted:
        level = [p for p in known if p.parent in wanted]
        found += level
        wanted = {p.pid for p in level}
    return found


def _session_members(session: int) -> list[int]:
    """Living processes of a session, whatever their process group."""
    return [p.pid for p in _processes() if p.session == session]


class Process(NamedTuple):
    pid: int
    name: str
    parent: int
    session: int


def _processes() -> Iterator[Process]:
    """All processes that are not zombies."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
            name = stat.with_name("cmdline").read_text().partition("\0")[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, _, session = tail.split()[:4]
        if state != "Z":
            yield Process(int(head.partition(" ")[0]), name, int(parent), int(session))
