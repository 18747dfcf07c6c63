"""The paper's counts with little work each: `python -m tests.rehearsal concepts=N [at=FOLDER]`.

Work can be shrunk, counts cannot: 16×16 pictures, the fewest that the checks allow; adapters of one
step of the smallest network, one file of weights each (K = 1); a weight
generator of ten steps. The real stages, files, listings and pools, each as its own command, as a
user runs it. For each stage: seconds of the command and of the stage in it, the driver's and a
worker's most memory, files and bytes left behind, and the seconds of the same command once more,
which finds everything finished: that is bookkeeping alone.

Goes on where it was stopped. Writes tests/rehearsal/results.json, an entry a count and storage.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import provenance
from pipelines.runtime.stage_table import BY_NAME

RESULT = Path(__file__).parent / "results.json"
STAGES = (
    "concepts",
    "pairs",
    "base",
    "gans",
    "weights",
    "generator",
    "adapt",
    "evaluate",
    "report",
)
DRAWN = ("hair", "skin", "background", "striped_background", "clothes")
ART = ("duotone", "monochrome", "tint", "sketch", "neon", "halftone", "frame", "glow")
HELD_OUT = 85 + 40
"""Concepts of the paper's test sets, and for validation, whatever the count."""


def words(concepts: int, run_dir: str) -> list[str]:
    """A configuration of so many concepts, held-out ones included."""
    combine = [[a, b, art] for a, b in itertools.combinations(DRAWN, 2) for art in ART]
    combine = [c for c in combine if set(c[:2]) != {"background", "striped_background"}]
    singles = 20 * len((*DRAWN, *ART))
    given = {
        "preset": "tiny",
        "run_dir": run_dir,
        "images.size": 16,
        "images.count": 10,
        "images.paired": 1,
        "concepts.families": [*DRAWN, *ART],
        "concepts.atoms_per_family": 20,
        "concepts.combine": combine,
        "concepts.train_combinations": concepts - singles - HELD_OUT,
        "concepts.paired_families": [],
        "concepts.paired_combinations": 0,
        "concepts.val_combinations": 40,
        "concepts.test_atoms": 0,
        "concepts.test_combinations": 85,
        "concepts.paraphrases": 0,
        "translator.width": 4,
        "translator.heads": 1,
        "discriminator.width": 4,
        "base.steps": 10,
        "gans.steps": 1,
        "gans.batch": 1,
        "gans.concepts_per_batch": 64,
        "generator.image_steps": 0,
        "rival.train": False,
        "refine.steps": 0,
        "refine.basis_concepts": 0,
        "adapt.learned_steps": 0,
        "adapt.basis": False,
        "adapt.steps": 1,
        "adapt.batch": 1,
        "adapt.keep": [],
        "evaluate.images": 2,
        "max_error_fraction": 1.0,
    }
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]


class Memory:
    """Most resident memory of a process, and of any one below it, until the block ends. MiB.

    own: without pages that processes share, of libraries, mapped files and the object store.
    """

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.most: dict[str, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.wait(0.3):
            try:
                self._note("driver", self.process)
                for child in self.process.children(recursive=True):
                    if child.name().startswith("ray::"):
                        self._note("worker", child)
            except psutil.Error:
                continue

    def _note(self, who: str, process: psutil.Process) -> None:
        memory = process.memory_info()
        for key, size in (("mib", memory.rss), ("own_mib", memory.rss - memory.shared)):
            self.most[f"{who}_{key}"] = max(self.most.get(f"{who}_{key}", 0), size >> 20)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.thread.join()


def command(stage: str, given: list[str], log: Path) -> dict[str, Any]:
    """Run one stage as a user does; RuntimeError with its last lines if it fails."""
    begun = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", stage, *given],
            stdout=file,
            stderr=file,
            env=environment,
        )
        with Memory(process.pid) as memory:
            status = process.wait()
    if status:
        raise RuntimeError(f"{stage}: " + "\n".join(log.read_text().splitlines()[-8:]))
    seconds = round(time.monotonic() - begun, 1)
    return {"seconds": seconds, **memory.most}


def left_by(run: RunDir, stage: str) -> dict[str, Any]:
    listed = [one for out in BY_NAME[stage].outputs for one in run.listing(out).values()]
    marker = run.read_json(f"stages/{stage}.json")
    return {
        "stage_seconds": marker["seconds"],
        "files": len(listed),
        "mb": round(sum(one.size for one in listed) / 1e6, 1),
        "marker_mb": round(run.size(f"stages/{stage}.json") / 1e6, 2),
    }


def main(told: list[str]) -> int:
    own = dict(word.partition("=")[::2] for word in told)
    concepts = int(own["concepts"])
    home = Path(own.get("at", tempfile.gettempdir())) / f"rehearsal-{concepts}"
    home.mkdir(parents=True, exist_ok=True)
    given = words(concepts, str(home / "run"))
    run = RunDir(load_config(given).run_dir)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    entry = known.setdefault(f"local, {concepts}", {"concepts": concepts, "stages": {}})
    entry |= {"machine": machine(), "commit": provenance()["commit"]}
    for stage in own.get("stages", ",".join(STAGES)).split(","):
        if stage in entry["stages"] and run.exists(f"stages/{stage}.json"):
            continue
        made = command(stage, given, home / "log")
        again = command(stage, given, home / "log")
        entry["stages"][stage] = {
            **made,
            **left_by(run, stage),
            "again_seconds": again["seconds"],
            "again_driver_mib": again["driver_mib"],
            "again_driver_own_mib": again["driver_own_mib"],
        }
        print(stage, json.dumps(entry["stages"][stage]), flush=True)
        RESULT.write_text(json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
