"""How long until work goes on: `python -m tests.rehearsal.kills concepts=N [storage=s3] [rows=N]`.

On a rehearsal's run whose stage `gans` is finished: its last adapters are deleted, the stage begun
again, and while it makes them, one after another: a worker is killed, the command is killed and
given again, and (storage=s3) the store is not reachable for a minute. Seconds from the kill, or
from the store's return, to the next finished adapter. Writes tests/rehearsal/kills.json.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_graph import provenance
from pipelines.stages.adapter_metrics import FOLDER
from pipelines.stages.concepts import load_concepts
from tests.rehearsal.__main__ import storage
from tests.rehearsal.configuration import words
from tests.rehearsal.slow_store import SlowStore

RESULT = Path(__file__).parent / "kills.json"
AWAY = 60
"""Seconds without a store."""
AHEAD = 256
"""Missing adapters that are looked for at once: two actors' batches, and those that come next."""


class Gans:
    """The stage while it runs, and which of the missing adapters are there."""

    def __init__(self, given: list[str], run: RunDir, missing: list[str], log: Path) -> None:
        self.given, self.run, self.log = given, run, log
        self.missing = list(missing)
        self.made = 0
        self.begin()

    def begin(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", "gans", *self.given],
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def next(self, limit: float = 1800) -> float:
        """Seconds until one more adapter is there; RuntimeError if the stage ends before."""
        begun, known = time.monotonic(), self._look()
        while self._look() == known:
            if self.process.poll() is not None or time.monotonic() - begun > limit:
                raise RuntimeError(f"gans made no further adapter: see {self.log}")
            time.sleep(0.1)
        return round(time.monotonic() - begun, 1)

    def _look(self) -> int:
        """How many have been seen; the stage makes them in order, but for its actors."""
        first = self.missing[:AHEAD]
        with ThreadPoolExecutor(READERS) as threads:
            there = threads.map(lambda i: self.run.exists(f"{FOLDER}/{i}/metrics.json"), first)
        left = [i for i, made in zip(first, there, strict=True) if not made]
        self.made += len(first) - len(left)
        self.missing = left + self.missing[AHEAD:]
        return self.made

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [c for c in children if c.name().startswith("ray::Map")]

    def worker(self) -> psutil.Process:
        return self.workers()[0]

    def replaced(self, worker: psutil.Process) -> float:
        """Kill it; seconds until as many are at work as before."""
        before, begun = {w.pid for w in self.workers()}, time.monotonic()
        worker.kill()
        while True:
            with suppress(psutil.Error):
                now = {w.pid for w in self.workers()} - {worker.pid}
                if len(now) >= len(before):
                    return round(time.monotonic() - begun, 1)
            time.sleep(0.1)


def kills(gans: Gans, store: SlowStore | None) -> dict[str, float]:
    found = {"first adapter after the command": gans.next()}
    gans.next()
    found["worker, until another is in its place"] = gans.replaced(gans.worker())
    gans.next()
    everybody = psutil.Process(gans.process.pid).children(recursive=True)
    os.kill(gans.process.pid, signal.SIGKILL)
    gans.process.wait()
    begun = time.monotonic()
    psutil.wait_procs(everybody)  # its actors write until Ray ends them
    found["driver, until its processes have ended"] = round(time.monotonic() - begun, 1)
    gans.begin()
    found["driver, from the command to the next adapter"] = gans.next()
    if store:
        gans.next()
        store.reachable = False
        time.sleep(AWAY)
        store.reachable = True
        found[f"store away for {AWAY} s"] = gans.next()
    return found


def main(given: list[str]) -> int:
    own = dict(word.partition("=")[::2] for word in given)
    count, kind = int(own["concepts"]), own.get("storage", "local")
    home = Path(own.get("at", tempfile.gettempdir())) / f"rehearsal-{count}"
    with storage(kind, home, float(own.get("delay", 0.02))) as (uri, store):
        settings = words(count, uri)
        run = RunDir(load_config(settings).run_dir)
        done = [f.split("/")[1] for f in run.files(FOLDER) if f.endswith("/metrics.json")]
        made = set(done)
        order = [c.concept_id for c in load_concepts(run) if c.concept_id in made]
        missing = order[-int(own.get("rows", 6400)) :]
        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(lambda i: run.delete(f"{FOLDER}/{i}"), missing))
        run.delete("stages/gans.json")
        gans = Gans(settings, run, missing, home / "log")
        try:
            found = kills(gans, store)
        finally:
            gans.process.terminate()
            gans.process.wait()
    result = {
        "command": "python -m tests.rehearsal.kills " + " ".join(given),
        "concepts": count,
        "storage": kind,
        "seconds until the next adapter": found,
        "machine": machine(),
        "commit": provenance()["commit"],
    }
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | {f"{kind}, {count}": result}, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
