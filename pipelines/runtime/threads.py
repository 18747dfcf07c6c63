"""How many threads a training takes: tried while it runs, for other people use the machine, too.

torch's threads wait for each other spinning. One whose core another process has lets all others
spin: two threads beside one busy process make 0.4 to 0.75 of the steps that one makes there,
although alone they make up to twice as many (tests/bench/results/shared_machine.json; a shorter
spin, or none, mends it for large networks alone). What is best depends on who else is there, and
that changes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

TRIED = 5
"""Steps with each number, of which the first is not counted: threads begin."""
EVERY = 60.0
"""Seconds after which all are tried again, and at least"""
PART = 20
"""times as long as the last trial took: of slow steps it would else be most."""
HOPELESS = 1.5
"""Fewer threads whose step takes so many times the best's are not tried on."""
BETTER = 0.95
"""Fewer threads are taken where a step takes less than so much of what it takes with more."""


class Threads:
    """At most `most`; always as many where `fixed`. Sums depend on their number in the last bits.

    set_threads: torch's, which this module does without, as all that is only asked.
    """

    def __init__(
        self,
        most: int,
        fixed: bool,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.choices = [most] if fixed else sorted({most, -(-most // 2), 1}, reverse=True)
        self.set_threads, self.clock = set_threads, clock
        self.now = most
        self.left: list[int] = []
        self.again_at = -float("inf")
        set_threads(most)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step of the training."""
        begun = self.clock()
        if not self.left and len(self.choices) > 1 and begun >= self.again_at:
            self.left, self.trial_at = list(self.choices), begun
            self.taken: dict[int, list[float]] = defaultdict(list)
        if self.left:
            self._set(self.left[0])
        yield
        if self.left:
            self._took(self.clock() - begun)

    def _took(self, seconds: float) -> None:
        of = self.taken[self.now]
        of.append(seconds)
        if len(of) < TRIED and not self._hopeless():
            return
        self.left.pop(0)
        if self.left:
            return
        best, *fewer = self.choices
        for count in fewer:
            if self._seconds(count) < BETTER * self._seconds(best):
                best = count
        self._set(best)
        now = self.clock()
        self.again_at = now + max(EVERY, PART * (now - self.trial_at))

    def _hopeless(self) -> bool:
        """Whether the number that is tried is clearly slower than one that was."""
        tried = [self._seconds(c) for c in self.choices if c > self.now]
        of = self.taken[self.now][1:]
        return bool(tried and of) and min(of) > HOPELESS * min(tried)

    def _seconds(self, count: int) -> float:
        return median(self.taken[count][1:])

    def _set(self, count: int) -> None:
        if count != self.now:
            self.set_threads(count)
        self.now = count
