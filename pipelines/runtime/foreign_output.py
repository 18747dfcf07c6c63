"""A terminal never shows what other libraries write: it goes to a file, which one line names.

Ray's C++ writes to descriptor 2 itself, so nothing above the descriptors would do. What is ours in
it, lines of worker processes that Ray hands on, is shown; real failures are told in a sentence.
Elsewhere than on a terminal (jobs, CI, files) everything stays where it was.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pipelines.config.error import ConfigError
from pipelines.runtime import terminal
from pipelines.runtime.log import log
from pipelines.runtime.stopping import cleaned_up

FOLLOW_SECONDS = 0.2
OURS = re.compile(r"(?:\(.*?pid=[^)]*\) )?(\[\d\d:\d\d:\d\d\] (.*))")
"""A line of `log` in any process, with Ray's prefix or without."""
STATE = re.compile(r"(?P<what>.+): (?P<text>(?P<done>\d+)/(?P<total>\d+) \w+(?:, .*)?)")
"""Such a line's text if it is a `Progress`'s."""
FAILURES = (
    (
        r"A worker died or was killed while executing .*?Worker PID: (\d+)",
        "a worker process (pid {}) died; its work is done again where it can be",
    ),
    (
        r"[Ww]orkers? ?(?:\(.*?\)|\(s\)| were)* killed due to (?:the node|memory)",
        "Ray ended worker processes because memory ran low: a smaller cluster.actors needs less",
    ),
    (
        r"node with node id: (\w+).* has been marked dead",
        "node {} of the cluster was lost; the others go on",
    ),
    (
        r"(No available node types can fulfill .*)",
        "the cluster cannot grow as it should: {}",
    ),
)
"""What Ray says of a real failure, and what a person is told."""

_file: Path | None = None


@contextmanager
def foreign_output_to_file() -> Iterator[None]:
    """Those of stdout and stderr that are a terminal lead to a new file until the block is left.

    Our lines (`log`, `Progress`) still reach the terminal; print nothing else in the block. After
    an error the file holds its traceback, too, and a line names the file once more. A block within
    another one changes nothing.
    """
    global _file
    descriptors = [] if _file else [d for d in (1, 2) if os.isatty(d)]
    if not descriptors:
        yield
        return
    prefix = time.strftime("denoised-weights-%m%d-%H%M-")
    target, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
    _file = Path(name)
    reader = _Reader(_file)
    with ExitStack() as undo:
        undo.callback(_forget)
        undo.callback(os.close, target)
        if 2 in descriptors:
            undo.enter_context(_our_lines_to(os.dup(2)))
        for descriptor in descriptors:
            undo.enter_context(_redirected(descriptor, target))
        undo.callback(reader.stop)
        reader.thread.start()
        undo.enter_context(cleaned_up(partial(_end, reader)))
        try:
            yield
        except Exception as error:
            if not isinstance(error, ConfigError):
                reader.named = True
                traceback.print_exc()
                undo.callback(log, f"what led to it: {_file}")
            raise


def _end(reader: _Reader) -> None:
    """A signal ends the process: what was written so far is read, an empty file goes."""
    reader.stop()
    _forget()


def _forget() -> None:
    """The block is left; a file to which nothing was written goes."""
    global _file
    if _file is not None and not _file.stat().st_size:
        _file.unlink()
    _file = None


@contextmanager
def _our_lines_to(descriptor: int) -> Iterator[None]:
    encoding = sys.stderr.encoding
    with os.fdopen(descriptor, "w", encoding=encoding, errors="backslashreplace") as screen:
        terminal.hold(screen)
        try:
            yield
        finally:
            terminal.hold(None)


@contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    saved = os.dup(descriptor)
    try:
        _flush()
        os.dup2(target, descriptor)
        yield
    finally:
        _flush()
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush() -> None:
    """What was written before goes to where it was written to."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


class _Reader:
    """Reads the file as it grows, for what a person should see all the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open(encoding="utf-8", errors="replace")
        self.rest = ""
        self.named = False
        self.bar: terminal.Bar | None = None
        self.text = ""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="foreign output", daemon=True)

    def stop(self) -> None:
        """Returns when all that was written has been read."""
        _flush()
        self.ended.set()
        self.thread.join()
        self.file.close()

    def _run(self) -> None:
        while True:
            last = self.ended.wait(FOLLOW_SECONDS)
            *lines, self.rest = (self.rest + self.file.read()).split("\n")
            for line in lines:
                self._line(line)
            if last:
                return

    def _line(self, line: str) -> None:
        if ours := OURS.fullmatch(line):
            if state := STATE.fullmatch(ours[2]):
                self._progress(
                    state["what"], int(state["done"]), int(state["total"]), state["text"]
                )
            else:
                terminal.write(ours[1])
            return
        if line.strip() and not self.named:
            self.named = True
            log(f"messages of Ray and other libraries: {self.path}")
        for pattern, sentence in FAILURES:
            if found := re.search(pattern, line):
                log(sentence.format(*found.groups()))

    def _progress(self, what: str, done: int, total: int, text: str) -> None:
        """A worker's Progress: the bar is its, or it is said beside that of this process."""
        bar = terminal.bar()
        if bar is not None and bar is not self.bar:
            bar.beside = f"{what}: {text}" if done < total else ""
        elif done < total:
            self.text = text
            if bar is None or bar.what != what:
                self.bar = bar = terminal.new_bar(what, total, done, lambda: self.text)
            if bar is not None:
                bar.move(done)
                return
        else:
            terminal.end_bar()
        if done >= total or bar is None:
            log(f"{what}: {text}")
