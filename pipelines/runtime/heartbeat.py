"""How far a stage is, for those who look from elsewhere: `progress/<stage>.json`.

The driver writes it every ten seconds while the stage runs, whether anything has moved or not. Of a
training, whose steps a worker alone counts, that writes `progress/<stage>.training.json` beside it.
What cannot be written is left: a heartbeat stops no work.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from modeling.reasons import one_line
from pipelines.runtime import log, stage_metrics
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_metrics import GAUGES

EVERY = 10.0
"""Seconds between two beats."""
FOLDER = "progress"
TRAINING = "training"
RUNNING, FAILED, STOPPED, FINISHED = "running", "failed", "stopped", "finished"


@dataclass(frozen=True)
class Beat:
    """What is told. Times are of the writer's clock, in seconds."""

    state: str
    at: float
    host: str
    pid: int
    beats: int = 0
    attempts: int = 1
    """Times that the stage was begun, this one included."""
    seconds: float = 0.0
    """That it has run, earlier attempts included."""
    what: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    bad: int = 0
    note: str = ""
    reason: str = ""
    """Why it failed."""

    @property
    def left(self) -> float | None:
        """Seconds, by the rate; None where there is none yet."""
        if self.rate <= 0 or not self.total:
            return None
        return max(0, self.total - self.done) / self.rate


def read(run: RunDir, stage: str, part: str = "") -> Beat | None:
    """The last beat; None without one, or one of another version."""
    try:
        told = run.read_json(_path(stage, part))
        known = {f.name for f in fields(Beat)}
        return Beat(**{k: v for k, v in told.items() if k in known})
    except (ArtifactError, OSError, ValueError, TypeError, AttributeError):
        return None


def forget(run: RunDir, stage: str) -> None:
    """Of a stage that is made again from the start."""
    for part in ("", TRAINING):
        run.delete(_path(stage, part))


def _path(stage: str, part: str) -> str:
    return f"{FOLDER}/{stage}{part and '.'}{part}.json"


class _Heart:
    """Of one stage in this process."""

    def __init__(self, run: RunDir, stage: str, part: str) -> None:
        self.run, self.stage, self.path = run.hurried(), stage, _path(stage, part)
        before = read(run, stage, part)
        self.begun = time.monotonic()
        self.beat = Beat(RUNNING, time.time(), platform.node(), os.getpid())
        if before is not None:
            self.beat = replace(self.beat, attempts=before.attempts + 1, seconds=before.seconds)
        self.before = self.beat.seconds
        self.counted: log.Progress | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._write()
        self.thread.start()

    def _keep(self) -> None:
        while not self.ended.wait(EVERY):
            self._write()

    def end(self, state: str, reason: str = "") -> None:
        self.ended.set()
        self.thread.join()
        self._write(state=state, reason=reason)

    def _write(self, **more: Any) -> None:
        c = self.counted
        if c is not None:
            more |= {"what": c.what, "unit": c.unit, "total": c.total, "done": c.done}
            more |= {"bad": c.bad, "note": str(c.note), "rate": round(c.rate(), 4)}
        seconds = self.before + time.monotonic() - self.begun
        self.beat = replace(
            self.beat, at=time.time(), beats=self.beat.beats + 1, seconds=round(seconds, 1), **more
        )
        with suppress(ArtifactError, OSError):
            self.run.write_json(self.path, asdict(self.beat))
        counted = {name: getattr(self.beat, name) for name in GAUGES}
        stage_metrics.publish(self.stage, self.beat.unit, counted)


_active: _Heart | None = None


def _watch(counted: log.Progress) -> None:
    if _active is not None:
        _active.counted = counted


log.watcher = _watch


def tell(run: RunDir, stage: str) -> None:
    """Of a training, from the worker that counts its steps, until its process ends."""
    global _active
    if _active is not None:  # of the training before
        _active.ended.set()
    _active = _Heart(run, stage, TRAINING)
    _active.start()


@contextmanager
def beating(run: RunDir, stage: str) -> Iterator[None]:
    """While the block runs; its end is told, too."""
    global _active
    _active = heart = _Heart(run, stage, "")
    heart.start()
    try:
        yield
    except Exception as error:
        heart.end(FAILED, one_line(str(error) or type(error).__name__))
        raise
    except BaseException:
        heart.end(STOPPED)
        raise
    else:
        heart.end(FINISHED)
    finally:
        _active = None
