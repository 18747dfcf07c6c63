"""The paper's counts with little work each: `python -m tests.rehearsal concepts=N [storage=s3]`.

Work can be shrunk, counts cannot: 16×16 pictures, the fewest that the checks allow; adapters of one
step of the smallest network, one file of weights each (K = 1); a weight
generator of ten steps. The real stages, files, listings and pools, each as its own command, as a
user runs it. For each stage: seconds of the command and of the stage in it, the driver's and a
worker's most memory, files and bytes left behind, and the seconds of the same command once more,
which finds everything finished: that is bookkeeping alone.

storage=s3: in SeaweedFS on loopback, 20 ms before each request (delay=), with requests and bytes
counted. from=local: the run of the same count on the disk is copied there first, and each of its
stages is begun again without its marker: it finds its rows done, and checks and records them. That
is a stage's start and end without its work; `weights` makes its tables anew.

Words: concepts=, storage=local|s3, at=FOLDER, stages=a,b, delay=0.02, from=local. Goes on where it
was stopped. Writes tests/rehearsal/results.json, an entry a count and storage, and for two counts
the exponent by which a stage grows with them.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec

from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_graph import provenance
from pipelines.runtime.stage_table import BY_NAME
from tests.object_store import in_environment, seaweedfs
from tests.rehearsal.configuration import words
from tests.rehearsal.measuring import command
from tests.rehearsal.slow_store import SlowStore, slow_store

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
GROWN = ("seconds", "stage_seconds", "again_seconds", "end_seconds", "driver_own_mib", "requests")


@contextmanager
def storage(kind: str, home: Path, delay: float) -> Iterator[tuple[str, SlowStore | None]]:
    """URI of the run, and the store that it is in."""
    if kind == "local":
        yield str(home / "run"), None
        return
    with (
        seaweedfs(home / "weed", keep=True) as address,
        slow_store(int(address.rpartition(":")[2]), delay) as store,
        in_environment(store.address),
    ):
        s3 = fsspec.filesystem("s3")
        if not s3.exists("rehearsal"):
            s3.mkdir("rehearsal")
        yield "s3://rehearsal/run", store


def copied(source: RunDir, target: RunDir, store: SlowStore) -> None:
    """What is not there yet, without the store's delay."""
    outputs = [out for stage in STAGES for out in BY_NAME[stage].outputs]
    names = [n for out in (*outputs, "stages", "errors") for n in source.files(out)]
    names += ["config.yaml"]
    there = {n for out in (*outputs, "stages", "errors") for n in target.files(out)}
    delay, store.delay = store.delay, 0.0
    todo = [n for n in names if n not in there]
    with ThreadPoolExecutor(READERS) as threads:
        for i, _ in enumerate(threads.map(lambda n: target.write(n, source.read(n)), todo)):
            if not i % 10_000:
                print(f"copied {i} of {len(todo)}", flush=True)
    store.delay = delay
    store.told()


def left_by(run: RunDir, stage: str) -> dict[str, Any]:
    listed = [one for out in BY_NAME[stage].outputs for one in run.listing(out).values()]
    marker = run.read_json(f"stages/{stage}.json")
    return {
        "stage_seconds": marker["seconds"],
        "files": len(listed),
        "mb": round(sum(one.size for one in listed) / 1e6, 1),
        "marker_mb": round(run.size(f"stages/{stage}.json") / 1e6, 2),
    }


def measured(
    stage: str, given: list[str], run: RunDir, store: SlowStore | None, log: Path
) -> dict[str, Any]:
    """A stage's command, and the same once more; without its marker, if it is there already."""
    done = run.exists(f"stages/{stage}.json")
    for name in (f"stages/{stage}.json", f"stages/{stage}.started.json"):
        run.delete(name)
    made = told(stage, given, store, log)
    left = left_by(run, stage)
    again = told(stage, given, store, log)
    if done:
        made = {f"end_{k}": v for k, v in made.items()}
        left.pop("stage_seconds")
    return made | left | {f"again_{k}": v for k, v in again.items()}


def told(stage: str, given: list[str], store: SlowStore | None, log: Path) -> dict[str, Any]:
    if store:
        store.told()
    made = command(stage, given, log)
    return made | (store.told() if store else {})


def growth(known: dict[str, Any]) -> dict[str, Any]:
    """Exponents between each storage's two largest counts, where a stage was measured at both."""
    out: dict[str, Any] = {}
    for kind in ("local", "s3"):
        runs = sorted(
            (e for k, e in known.items() if k.startswith(f"{kind}, ")), key=lambda e: e["concepts"]
        )
        for few, many in pairwise(runs):
            of = out.setdefault(f"{kind}, {few['concepts']} to {many['concepts']}", {})
            ratio = math.log(many["concepts"] / few["concepts"])
            for stage in few["stages"].keys() & many["stages"].keys():
                a, b = few["stages"][stage], many["stages"][stage]
                of[stage] = {
                    k: _exponent(a[k], b[k], ratio) for k in GROWN if a.get(k) and b.get(k)
                }
    return out


def _exponent(few: float, many: float, ratio: float) -> float:
    return round(math.log(many / few) / ratio, 2)


def main(words_given: list[str]) -> int:
    own = dict(word.partition("=")[::2] for word in words_given)
    concepts, kind = int(own["concepts"]), own.get("storage", "local")
    home = Path(own.get("at", tempfile.gettempdir())) / f"rehearsal-{concepts}"
    home.mkdir(parents=True, exist_ok=True)
    delay = float(own.get("delay", 0.02)) if kind == "s3" else 0.0
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    entry = known.setdefault(f"{kind}, {concepts}", {"concepts": concepts, "stages": {}})
    entry |= {"machine": machine(), "commit": provenance()["commit"], "delay": delay}
    with storage(kind, home, delay) as (uri, store):
        given = words(concepts, uri)
        run = RunDir(load_config(given).run_dir)
        if own.get("from") == "local" and store:
            copied(RunDir(str(home / "run")), run, store)
            entry["copied from"] = "local"
        for stage in own.get("stages", ",".join(STAGES)).split(","):
            if stage in entry["stages"] and run.exists(f"stages/{stage}.json"):
                continue
            entry["stages"][stage] = measured(stage, given, run, store, home / "log")
            print(stage, json.dumps(entry["stages"][stage]), flush=True)
            known["growth"] = growth(known)
            RESULT.write_text(json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
