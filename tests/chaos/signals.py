"""Stop every stage by real signals, many times: `python -m tests.chaos.signals [n=1] [seed=0]
[kinds=SIGHUP,…]`.

One `tiny` run a kind of signal: Ctrl-C to the process group, SIGTERM to the driver, SIGTERM to all
processes as batch systems send it, SIGHUP. It is started again and again, and stopped in each stage
in turn at a moment drawn from the time that the stage takes. Each time: one sentence, 128 + the
signal's number, no process left, no traceback. At its end it has what an uninterrupted run has.

The tally is kept in tests/chaos/signals.json.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import STAGES
from tests.driver import ROOT, Driver

TALLY = Path(__file__).parent / "signals.json"
KINDS = {
    "Ctrl-C": (signal.SIGINT, "group"),
    "SIGTERM": (signal.SIGTERM, "driver"),
    "SIGTERM to all": (signal.SIGTERM, "all"),
    "SIGHUP": (signal.SIGHUP, "group"),
}
SENTENCE = "denoised-weights: stopped; the same command continues"
BAD = ("Traceback (most recent call last)", "*** SIG", "Aborted", "Fatal Python error")
WORDS = ["run", "preset=tiny", "gans.concepts_per_batch=1"]
COMPARED = ("adapters", "base", "blocks", "generator")


def seconds_of(run: RunDir) -> dict[str, float]:
    return {s.name: run.read_json(f"stages/{s.name}.json")["seconds"] for s in STAGES}


def results(run: RunDir) -> dict[str, bytes]:
    names = [n for folder in COMPARED for n in run.files(folder) if n.endswith(".safetensors")]
    return {name: run.read(name) for name in names}


def trials(kind: str, reference: RunDir, home: Path, seed: int) -> list[dict[str, Any]]:
    number, whom = KINDS[kind]
    draw = random.Random(f"{kind} {seed}")
    folder = home / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    took, out = seconds_of(reference), []
    for stage in STAGES:
        moment = draw.uniform(0, took[stage.name])
        one: dict[str, Any] = {"kind": kind, "seed": seed, "stage": stage.name}
        one["moment"] = round(moment, 2)
        words = [*WORDS, f"run_dir={folder}"]
        if (folder / f"stages/{stage.name}.json").exists():  # the last signal came after it
            words.append(f"redo=[{stage.name}]")
        with Driver(words, home) as driver:
            begun = f"] {stage.name}: {stage.summary}"
            driver.wait_until(lambda: begun in driver.output())  # noqa: B023 (called in the loop)
            with suppress(subprocess.TimeoutExpired):
                driver.process.wait(moment)
            try:
                one |= {"status": driver.stop(number, whom), "left": ""}
            except (AssertionError, subprocess.TimeoutExpired) as error:
                one |= {"status": driver.process.poll(), "left": str(error)[:300]}
            text = driver.output()
        said = text.splitlines().count(SENTENCE)
        # all was done, and Python on its way out, without our handlers
        late = (folder / f"stages/{STAGES[-1].name}.json").exists() and not said
        one["late"] = late
        one["ok"] = (
            (one["status"] in (0, -number) if late else one["status"] == 128 + number and said == 1)
            and not one["left"]
            and not any(bad in text for bad in BAD)
        )
        if not one["ok"]:
            one["output"] = text[-3000:]
        out.append(one)
    with Driver([*WORDS, f"run_dir={folder}"], home) as driver:
        status = driver.process.wait(600)
        text = driver.output()
    equal = status == 0 and results(RunDir(str(folder))) == results(reference)
    end = {"kind": kind, "seed": seed, "stage": "to its end", "status": status, "ok": equal}
    return [*out, end if equal else {**end, "output": text[-3000:]}]


def main(words: list[str]) -> int:
    numbers = dict(w.split("=") for w in words)
    n, base = int(numbers.get("n", 1)), int(numbers.get("seed", 0))
    tally = json.loads(TALLY.read_text()) if TALLY.exists() else {"trials": []}
    known = {(t["kind"], t["seed"]) for t in tally["trials"] if t["stage"] == "to its end"}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        with Driver([*WORDS, f"run_dir={home / 'reference'}"], home) as driver:
            driver.wait()
        reference = RunDir(str(home / "reference"))
        for seed in range(base, base + n):
            for kind in numbers.get("kinds", ",".join(KINDS)).split(","):
                if (kind, seed) in known:
                    continue
                made = trials(kind, reference, home, seed)
                tally["trials"] += made
                tally["machine"] = machine()
                tally["ok"] = sum(t["ok"] for t in tally["trials"])
                tally["of"] = len(tally["trials"])
                # of no machine in particular
                text = json.dumps(tally, indent=1).replace(sys.executable, "python")
                TALLY.write_text(text.replace(str(ROOT), "") + "\n")
                bad = [t for t in made if not t["ok"]]
                print(f"{kind}, seed {seed}: {len(made) - len(bad)} of {len(made)}", flush=True)
    return 0 if tally["ok"] == tally["of"] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
