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
    """`total` units of work; a line at most every `every` seconds, and one at the end."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.first = self.done = done
        self.begun = self.last = time.monotonic()

    def add(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.last < self.every:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.begun, 1e-6)
        left = "" if self.done >= self.total else f", {span((self.total - self.done) / max(rate, 1e-9))} left"
        tail = f", {note}" if note else ""
        log(f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{left}{tail}")
