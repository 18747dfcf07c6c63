"""What a person sees while the stages run: plain lines, with rate and time left."""

from __future__ import annotations

import sys
import time


def log(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """`total` units of work; a line at most every `every` seconds, and one at the end.

    The rate counts from the first unit that is done: before it, processes start.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.done = done
        self.first: tuple[int, float] | None = None
        self.last = time.monotonic()

    def add(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.first is None:
            self.first = (self.done, now)
        if self.done < self.total and now - self.last < self.every:
            return
        self.last = now
        parts = [f"{self.done}/{self.total} {self.unit}"]
        done, seconds = self.done - self.first[0], now - self.first[1]
        if done and seconds > 0:
            parts.append(f"{done / seconds:.1f}/s")
            if self.done < self.total:
                parts.append(f"{span((self.total - self.done) * seconds / done)} left")
        log(f"{self.what}: " + ", ".join([*parts, note] if note else parts))
