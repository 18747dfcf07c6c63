"""Our lines and, on a terminal, one live bar below them.

There are no colours, so NO_COLOR has nothing to turn off. The bar is tqdm's text and not a live
display (rich): one row, drawn over itself, with the cursor left as it is, so that a process that is
killed leaves nothing to put right. Either imports in 20 ms; tqdm comes with transformers.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

REDRAW_SECONDS = 0.1
TICK_SECONDS = 1.0
"""A bar is drawn so often at most; and at least, for the time left and a window's new width."""
ERASE_ROW = "\r\x1b[K"

_lock = threading.RLock()
_bar: Bar | None = None
_held: TextIO | None = None


def hold(stream: TextIO | None) -> None:
    """From now on our lines go there, whatever becomes of sys.stderr; None: to sys.stderr again."""
    global _held
    with _lock:
        end_bar()
        _held = stream


def stream() -> TextIO:
    """Where our lines go."""
    return _held or sys.stderr


def write(line: str) -> None:
    """A line of ours, above the bar if there is one."""
    with _lock:
        erase = ERASE_ROW if _bar is not None else ""
        print(f"{erase}{line}", file=stream(), flush=True)
        if _bar is not None:
            _bar.draw()


def new_bar(what: str, total: int, done: int, state: Callable[[], str]) -> Bar | None:
    """The live bar, in place of any other; None where there is no terminal to draw it on.

    state: gives the text beside it whenever it is drawn.
    """
    global _bar
    if os.environ.get("TERM", "dumb") == "dumb" or not stream().isatty():
        return None
    with _lock:
        end_bar()
        _bar = Bar(what, total, done, state)
        _bar.draw()
    return _bar


def bar() -> Bar | None:
    """The live bar, if there is one."""
    return _bar


def end_bar() -> None:
    """Take the bar away, whoever's it is."""
    with _lock:
        if _bar is not None:
            _bar.close()


class Bar:
    """The bottom row of the terminal; `new_bar` makes the only one."""

    def __init__(self, what: str, total: int, done: int, state: Callable[[], str]) -> None:
        self.what, self.total, self.done, self.state = what, total, done, state
        self.beside = ""
        """What worker processes say of their part of the work."""
        self.file = stream()
        self.drawn = 0.0
        self.closed = threading.Event()
        threading.Thread(target=self._tick, name="live bar", daemon=True).start()

    def move(self, done: int) -> None:
        with _lock:
            self.done = done
            if time.monotonic() - self.drawn >= REDRAW_SECONDS:
                self.draw()

    def draw(self) -> None:
        with _lock:
            if self.closed.is_set():
                return
            self.drawn = time.monotonic()
            self.file.write(ERASE_ROW + self._text())
            self.file.flush()

    def close(self) -> None:
        """Empty the row; the cursor is at its beginning then."""
        global _bar
        with _lock:
            if self.closed.is_set():
                return
            self.closed.set()
            _bar = None
            self.file.write(ERASE_ROW)
            self.file.flush()

    def _text(self) -> str:
        from tqdm import tqdm  # here, as the commands that answer at once draw nothing

        try:
            columns = os.get_terminal_size(self.file.fileno()).columns or 80
        except OSError:
            columns = 80
        text = " | ".join(filter(None, (self.state(), self.beside)))
        braced = text.replace("{", "{{").replace("}", "}}")
        drawn: str = tqdm.format_meter(
            min(self.done, self.total),
            max(self.total, 1),
            0,
            ncols=columns - 1,  # after its last column a terminal may go to the next row
            prefix=self.what,
            bar_format=f"{{desc}} |{{bar:{max(4, min(24, columns // 5))}}}| {braced}",
            ascii=not (self.file.encoding or "").lower().startswith("utf"),
        )
        return drawn

    def _tick(self) -> None:
        while not self.closed.wait(TICK_SECONDS):
            self.draw()
