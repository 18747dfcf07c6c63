"""A driver as a person starts it: `python -m pipelines …` in a process that a test may kill."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

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


def _session_members(session: int) -> list[int]:
    """Living processes of a session, whatever their process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
