"""Ctrl-C, SIGTERM and a closed terminal: one sentence, exit status 128 + signal, no child left.

Python runs a signal's handler between two of the main thread's bytecodes, which may be long in
Ray's C++ then; and what unwinds from there, with Ray's threads at work, ends in C++'s own exit (1)
or abort (134) as often as in ours. So a thread is woken by the signal itself
(`signal.set_wakeup_fd`). It does what was asked for (`cleaned_up`), kills the children and leaves
at once. Nothing is lost by that: every file of a run is whole or not there.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.runtime import terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLEANUP_SECONDS = 10.0
"""What is cleaned up may take so long: a store or a cluster may not answer."""
LAST = ("raylet", "gcs_server")
"""The driver's C++ ends the process when these do: they are frozen, and the kernel ends them with
their parent (Ray starts them so)."""

_active: _Stopping | None = None


@contextmanager
def stoppable(sentence: str = "stopped; the same command continues") -> Iterator[None]:
    """Signals end the process, as above, while the block runs.

    A signal that is ignored (nohup, a shell's background) stays so. In another thread than the
    main one, or within such a block, it does nothing.
    """
    global _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    _active = _Stopping(sentence)
    try:
        _active.claim()
        yield
    finally:
        _active.release()
        _active = None


def claim() -> None:
    """After `ray.init`, which puts handlers of its own in: the signals are ours again.

    Outside of `stoppable` SIGTERM is made an ordinary exit: Ray's C++ prints a trace and may abort.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if _active is not None:
        _active.claim()
        _active.last = [child.pid for child in _children() if _name(child) in LAST]
    else:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@contextmanager
def hangups_ignored() -> Iterator[None]:
    """For processes started in it: a closed terminal ends the driver, which ends them.

    Ray itself keeps SIGINT from them. Of those that end by themselves the driver's C++ hears first.
    """
    if _active is None:
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def cleaned_up(act: Callable[[], object]) -> Iterator[None]:
    """`act` is called if a signal ends the process within the block; the last one first.

    From another thread, while the main one goes on. The block's own end is its own affair.
    """
    stopping = _active
    if stopping is None:
        yield
        return
    stopping.acts.append(act)
    try:
        yield
    finally:
        stopping.acts.remove(act)


def leave(status: int, sentence: str) -> None:
    """End the process as a signal does, from whatever thread; does not return."""
    with suppress(OSError):
        os.write(_active.screen if _active else 2, f"denoised-weights: {sentence}\n".encode())
    kill_children()
    os._exit(status)


def kill_children() -> None:
    """SIGKILL for all descendants but LAST, which are frozen so that they start nothing more."""
    _freeze(child.pid for child in _children() if _name(child) in LAST)
    for child in _children():  # once more: what was started until then
        if _name(child) not in LAST:
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)


def _freeze(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGSTOP)


def _children() -> list[Any]:
    """Descendants of this process, of psutil."""
    import psutil

    return list(psutil.Process().children(recursive=True))


def _name(process: Any) -> str:
    """The empty text if it has gone."""
    import psutil

    with suppress(psutil.Error):
        return str(process.name())
    return ""


class _Stopping:
    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self.acts: list[Callable[[], object]] = []
        self.last: list[int] = []
        """Processes of LAST."""
        self.screen = os.dup(2)  # descriptor 2 may lead elsewhere later
        self.woken, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        self.before = {s: signal.getsignal(s) for s in SIGNALS}
        self.wake_before = -1
        self.thread = threading.Thread(target=self._wait, name="signals", daemon=True)
        self.thread.start()

    def claim(self) -> None:
        for number, before in self.before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # Python's own, or no byte is written
        former = signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        if former != self.wake:
            self.wake_before = former

    def release(self) -> None:
        signal.set_wakeup_fd(self.wake_before)
        for number, before in self.before.items():
            signal.signal(number, before)
        os.close(self.wake)  # the thread reads the end and goes
        self.thread.join()
        os.close(self.woken)
        os.close(self.screen)

    def _wait(self) -> None:
        while byte := os.read(self.woken, 1):
            if byte[0] in SIGNALS:
                self._stop(byte[0])

    def _stop(self, number: int) -> None:
        """Clean up until done, too late or told again, and leave."""
        _freeze(self.last)  # before all else: the signal may have gone to them, too
        done = threading.Thread(target=self._clean_up, name="cleaning up", daemon=True)
        done.start()
        for _ in range(int(CLEANUP_SECONDS / 0.05)):
            done.join(0.05)
            if not done.is_alive():
                break
            if select.select([self.woken], [], [], 0)[0] and os.read(self.woken, 1)[0] in SIGNALS:
                break
        leave(128 + number, self.sentence)

    def _clean_up(self) -> None:
        terminal.end_bar()
        for act in reversed(self.acts):
            with suppress(Exception):  # the others still have their turn
                act()
