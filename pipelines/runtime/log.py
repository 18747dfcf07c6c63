"""What a person sees while the stages run: plain lines, and on a terminal one live bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from pipelines.runtime import terminal


def log(text: str) -> None:
    terminal.write(f"[{time.strftime('%H:%M:%S')}] {text}")


def span(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


watcher: Callable[[Progress], None] | None = None
"""Is told of each Progress of this process as it begins (pipelines/runtime/heartbeat.py)."""


class Progress:
    """`total` units of work. Elsewhere than on a terminal: a line at most every `every` seconds.

    On a terminal a live bar, and lines only if `every` is 0. One line at the end in either case.
    The rate counts from the first unit that is done: before it, processes start.

    Whatever ends without all units done (`with`, a stage, an error) takes its bar away.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.done = done
        self.bad = 0
        self.note: object = ""
        self.first: tuple[int, float] | None = None
        self.last = self.counted = time.monotonic()
        self.bar = terminal.new_bar(what, total, done, self._state)
        if watcher is not None:
            watcher(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int = 1, note: object = "", bad: bool = False) -> None:
        """note: its text is asked for when it is told. bad: nothing came of them."""
        self.done += count
        self.bad += count if bad else 0
        self.note = note
        self.counted = time.monotonic()
        if self.first is None:
            self.first = (self.done, self.counted)
        if self.bar is not None:
            self.bar.move(self.done)
        every = float("inf") if self.bar is not None and self.every else self.every
        if self.done < self.total and self.counted - self.last < every:
            return
        self.last = self.counted
        if self.done >= self.total and self.bar is not None:
            self.bar.close()
        log(f"{self.what}: {self._state()}")

    def rate(self) -> float:
        """Units a second; 0 before two of them are done."""
        first, since = self.first or (self.done, self.counted)
        seconds = self.counted - since
        return (self.done - first) / seconds if seconds > 0 else 0.0

    def _state(self) -> str:
        """Done of total, the rate, the time left (which runs down between units), the note."""
        parts = [f"{self.done}/{self.total} {self.unit}"]
        rate = self.rate()
        if rate > 0:
            parts.append(f"{rate:.1f}/s")
            if self.done < self.total:
                left = (self.total - self.done) / rate
                left = max(0.0, left - (time.monotonic() - self.counted))
                parts.append(f"{span(left)} left")
        note = str(self.note)
        return ", ".join([*parts, note] if note else parts)
