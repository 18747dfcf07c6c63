"""Kill things at random moments, many times: `python -m tests.chaos [n=20] [seed=0] [STAGE …]`.

For each stage (pairs, gans, generator, tune, serve) the `tiny` preset is run to its end once; then
n times from there, on a cluster of a head and two nodes on this machine, of which a worker process,
a whole node (another one comes, as after a spot interruption) or the driver is killed at a moment
drawn evenly from the time that the stage takes. What it leaves is compared with the uninterrupted
run, byte by byte where determinism is promised. Nothing is repaired by hand: the cluster lives on
from trial to trial, and a driver that died or gave up is started again by the same command, at most
three times.

`elastic` trains the base on two nodes with `cluster.least_workers=1`: one is lost, and another one
comes when training has gone on without it. At its end it must have made all steps, have two workers
again, and by the lines it printed have gone back by no more than the distance of two checkpoints.

The tally is kept in tests/chaos/tally.json after every trial, so a run that is stopped goes on.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.runtime.environment import PROXY
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from tests.conftest import last_checkpoint
from tests.driver import Driver, descendants

TALLY = Path(__file__).parent / "tally.json"
STAGES = ("pairs", "gans", "generator", "tune", "serve", "elastic")
KINDS = ("worker", "node", "driver")
WORDS = ["preset=tiny", "gans.steps=20", "gans.concepts_per_batch=1", "generator.steps=60"]
STUDY = """
axis: block size
why: chaos
trial: overfit
overfit: {concepts: [art], points: 2}
seeds: 2
keys: [generator.blocks_per_concept=0, generator.batch=1, generator.steps=40]
variants: {"64": [weights.block_size=64], "128": [weights.block_size=128]}
"""
AGAIN = 3
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""A node dies with each of these."""
QUICK = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 1000, "failure_threshold": 3}


@contextmanager
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with three."""
    # this process, the cluster's and the drivers' must agree, or an actor's owner counts as gone
    os.environ |= {**PROXY, "RAY_AUTH_MODE": "disabled"}
    for key, value in QUICK.items():
        os.environ[f"RAY_health_check_{key}"] = str(value)
    from ray.cluster_utils import Cluster

    memory = 100 * 2**20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=3, object_store_memory=memory)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def command(stage: str, folder: Path) -> list[str]:
    if stage == "tune":
        return ["tune", f"study={folder.parent / 'sizes.yaml'}", f"run_dir={folder}"]
    return [stage, *WORDS, f"run_dir={folder}"]


def reference(home: Path) -> tuple[Path, dict[str, float]]:
    """The uninterrupted run, and the seconds of each of its stages on such a cluster."""
    run = home / "reference"
    (home / "sizes.yaml").write_text(STUDY)
    seconds = {}
    with cluster() as nodes:
        for stage in ("concepts", "pairs", "base", "gans", "weights", "generator", "tune"):
            begun = time.monotonic()
            with Driver(command(stage, run), home, RAY_ADDRESS=nodes.address) as driver:
                driver.wait()
            seconds[stage] = time.monotonic() - begun
    return run, seconds


def left(run: Path, stage: str) -> dict[str, Any]:
    """What a stage left that must be equal, name → content."""
    here = RunDir(str(run))
    if stage == "tune":
        rows = here.read_table("tuning/sizes/trials.parquet").to_pylist()
        keys = ("variant", "seed", "step", "l1", "gap", "rmse")
        return {str([r[k] for k in keys[:3]]): [r[k] for k in keys] for r in rows}
    names = {
        "pairs": [f for f in here.files("pairs") if f.endswith(".parquet")],
        "gans": [f for f in here.files("adapters") if not f.endswith(".json")],
        "generator": [f for f in here.files("generator") if f.endswith(".safetensors")],
    }[stage]
    return {name: here.read(name) for name in names}


def kill(kind: str, nodes: Any, driver: Driver, draw: random.Random) -> str:
    """What was killed, or "" if there was nothing of the kind at this moment."""
    if kind == "driver":
        driver.kill()
        return "driver"
    alive = list(nodes.worker_nodes)
    if kind == "node":
        gone = draw.choice(alive)
        nodes.remove_node(gone, allow_graceful=False)
        nodes.add_node(num_cpus=3, object_store_memory=100 * 2**20)
        return "node"
    parents = [n.all_processes["raylet"][0].process.pid for n in alive]
    workers = [
        p
        for p in descendants(parents)
        if p.name.startswith("ray::") and not p.name.startswith(("ray::IDLE", *AGENTS))
    ]
    if not workers:
        return ""
    victim = draw.choice(sorted(workers))
    os.kill(victim.pid, signal.SIGKILL)
    return victim.name


def trial(
    stage: str, source: Path, seconds: float, home: Path, seed: int, nodes: Any
) -> dict[str, Any]:
    draw = random.Random(f"{stage} {seed}")
    kind = KINDS[seed % len(KINDS)]
    moment = draw.uniform(0, seconds)
    run = home / "trial"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run)
    if stage == "tune":
        shutil.rmtree(run / "tuning")
    words = command(stage, run)
    first = words if stage == "tune" else [*words, f"redo=[{stage}]"]
    out: dict[str, Any] = {"stage": stage, "seed": seed, "kind": kind, "moment": round(moment, 2)}
    begun = time.monotonic()
    status: int | None = None
    with Driver(first, home, RAY_ADDRESS=nodes.address) as driver:
        while time.monotonic() - begun < moment and driver.process.poll() is None:
            time.sleep(0.01)
        out["killed"] = ""
        while not out["killed"] and driver.process.poll() is None:  # no worker yet, or just now
            out["killed"] = kill(kind, nodes, driver, draw)
        if kind != "driver" or not out["killed"]:
            status = driver.process.wait(600)
    starts = 1
    if status not in (0, None):  # nobody killed the driver
        out["gave_up"] = driver.output().strip().splitlines()[-1][:500]
    while status != 0 and starts <= AGAIN:
        starts += 1
        with Driver(words, home, RAY_ADDRESS=nodes.address) as driver:
            status = driver.process.wait(600)
    out |= {"starts": starts, "status": status, "seconds": round(time.monotonic() - begun, 1)}
    if status == 0:
        mine, wanted = left(run, stage), left(source, stage)
        out["same_names"] = mine.keys() == wanted.keys()
        out["equal"] = sum(mine.get(k) == v for k, v in wanted.items())
        out["of"] = len(wanted)
    out["ok"] = status == 0 and out["same_names"] and out["equal"] == out["of"]
    if not out["ok"]:
        out["output"] = driver.output()[-1500:]
    return out


ELASTIC = ["base.steps=4000", "base.checkpoint_every=50", "base.workers=2"]
ELASTIC += ["cluster.least_workers=1", "cluster.training_cpus=2"]


def elastic_trial(source: Path, home: Path, seed: int, nodes: Any) -> dict[str, Any]:
    draw = random.Random(f"elastic {seed}")
    run = home / "trial"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run)
    shutil.rmtree(run / "train")
    words = ["base", *WORDS, *ELASTIC, f"run_dir={run}", "redo=[base]"]
    # Train first waits for the places that it knew, 60 s by itself
    setting = {"RAY_ADDRESS": nodes.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}
    out: dict[str, Any] = {"stage": "elastic", "seed": seed, "kind": "node", "killed": "node"}
    begun = time.monotonic()

    def step() -> int:
        return max(last_checkpoint(run).values(), default=0)

    with Driver(words, home, **setting) as driver:
        driver.wait_until(lambda: step() >= 100)
        time.sleep(draw.uniform(0, 10))
        out["lost_at"] = step()
        nodes.remove_node(draw.choice(list(nodes.worker_nodes)), allow_graceful=False)
        driver.wait_until(lambda: step() >= out["lost_at"] + 100)
        time.sleep(draw.uniform(0, 5))
        out["came_at"] = step()
        nodes.add_node(num_cpus=3, object_store_memory=100 * 2**20)
        out["status"] = driver.process.wait(600)
        steps = [int(n) for n in re.findall(r"base: (\d+)/4000 steps", driver.output())]
        out["back"] = [a - b for a, b in itertools.pairwise(steps) if b < a]
        out["seconds"] = round(time.monotonic() - begun, 1)
        if out["status"] == 0:
            found = RunDir(str(run)).read_json("stages/base.json")["summary"]
            out |= {"workers": found["workers"], "l1": found["l1"]}
        out["ok"] = (
            out["status"] == 0
            and out["workers"] == 2
            and math.isfinite(out["l1"])
            and steps[-1] == 4000
            and max(out["back"], default=0) <= 50
        )
        if not out["ok"]:
            out["output"] = driver.output()[-1500:]
    return out


def serve_trials(source: Path, home: Path, seeds: list[int], done: Callable[[Any], None]) -> None:
    """One service under load; a random copy of a random part is killed again and again."""
    import psutil
    import ray
    from ray import serve as ray_serve

    from cluster.local import free_port
    from pipelines.config.load import load_config
    from pipelines.serve.command import start
    from tests.pipelines.serve.clients import Load, copies

    words = [f"run_dir={source}", f"serve.port={free_port()}"]
    with cluster() as nodes:
        ray.init(address=nodes.address, log_to_driver=False)
        try:
            url = start(load_config(words))
            parts = ("Api", "Runs", "Text", "Weights", "Translator", "Finetunes")
            for seed in seeds:
                draw = random.Random(f"serve {seed}")
                part = draw.choice(parts)
                with Load(url, 4) as load:
                    time.sleep(draw.uniform(0, 3))
                    there = copies(part)
                    for victim in list(there)[:1]:
                        psutil.Process(victim).kill()
                    begun = time.monotonic()
                    while not copies(part) - there and time.monotonic() < begun + 60:
                        time.sleep(0.1)
                    load.answered(10)
                counted = {str(k): v for k, v in load.statuses.items()}
                bad = {k: v for k, v in counted.items() if k not in ("200", "503")}
                done(
                    {"stage": "serve", "seed": seed, "kind": part, "killed": bool(there)}
                    | {"ok": not bad, "statuses": counted}
                )
        finally:
            ray_serve.shutdown()
            ray.shutdown()


def main(words: list[str]) -> int:
    numbers = dict(w.split("=") for w in words if "=" in w)
    n, base = int(numbers.get("n", 20)), int(numbers.get("seed", 0))
    stages = [w for w in words if "=" not in w] or list(STAGES)
    tally = json.loads(TALLY.read_text()) if TALLY.exists() else {"trials": []}
    known = {(t["stage"], t["seed"]) for t in tally["trials"]}

    def done(result: dict[str, Any]) -> None:
        tally["trials"].append(result)
        tally["machine"] = machine()
        tally["summary"] = summary(tally["trials"])
        TALLY.write_text(json.dumps(tally, indent=1) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k != "output"}), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source, seconds = reference(home)
        for stage in stages:
            seeds = [s for s in range(base, base + n) if (stage, s) not in known]
            if stage == "serve":
                serve_trials(source, home, seeds, done)
                continue
            with cluster() as nodes:
                for seed in seeds:
                    if stage == "elastic":
                        done(elastic_trial(source, home, seed, nodes))
                    else:
                        done(trial(stage, source, seconds[stage], home, seed, nodes))
    print(json.dumps(tally.get("summary", {}), indent=1))
    return 0 if all(t["ok"] for t in tally["trials"]) else 1


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Stage → kind → trials, how many of them found something to kill, how many went well."""
    out: dict[str, Any] = {}
    for t in trials:
        empty = {"trials": 0, "killed": 0, "ok": 0}
        entry = out.setdefault(t["stage"], {}).setdefault(t["kind"], empty)
        entry["trials"] += 1
        entry["killed"] += bool(t["killed"])
        entry["ok"] += t["ok"]
    return out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
