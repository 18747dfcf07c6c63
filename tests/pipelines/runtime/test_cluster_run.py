"""Stages on a Ray cluster of several nodes: one is killed, and code is uploaded by a job."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from cluster.local import LocalCluster, LocalClusterError, free_port, main, numbers
from modeling.targets.lora import WEIGHTS_FILE
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.concepts import load_concepts, with_adapter
from tests.conftest import Finished, last_checkpoint
from tests.driver import ROOT, Driver, children

SMALL = 100 * 2**20
QUICK = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 1000, "failure_threshold": 3}


@contextmanager
def started(monkeypatch: pytest.MonkeyPatch, head: dict[str, Any], nodes: int) -> Iterator[Any]:
    """A cluster on this machine: a head, and nodes with three CPUs each."""
    for key, value in QUICK.items():
        monkeypatch.setenv(f"RAY_health_check_{key}", str(value))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": SMALL})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=3, object_store_memory=SMALL)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def test_a_job_runs_the_code_that_it_uploads(tmp_path: Path) -> None:
    """On `python -m cluster.local`; from a copy that names its editor otherwise, to tell it from
    ours. A node is lost between the two stages."""
    code, run = tmp_path / "code", RunDir(str(tmp_path / "run"))
    for package in ("modeling", "pipelines"):
        shutil.copytree(ROOT / package, code / package)
    shutil.copy(ROOT / ".gitignore", code)
    editors = code / "modeling/editors/exact.py"
    text = editors.read_text()
    assert text.count('name = "avatar"') == 1
    editors.write_text(text.replace('name = "avatar"', 'name = "uploaded"'))

    command = f"{sys.executable} -m pipelines {{}} preset=tiny images.count=10 run_dir={run.uri}"
    cluster = LocalCluster(nodes=2, cpus=3, port=free_port(), dashboard=free_port())
    try:
        for stage in ("concepts", "pairs"):
            submit(cluster.dashboard, command.format(stage), {"working_dir": str(code)})
            os.kill(cluster.nodes[0], signal.SIGTERM)
    finally:
        cluster.stop()
    started_there = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in started_there if cluster.home in command]
    concepts = {c.concept_id for c in load_concepts(run) if c.origin != "paraphrased"}
    table = pq.read_table(f"{run.uri}/pairs")
    paired = sum(not c.adapter for c in load_concepts(run) if c.origin != "paraphrased")
    assert table.num_rows == 10 * (len(concepts) - paired) + 5 * paired
    assert set(table["concept_id"].to_pylist()) == concepts
    assert set(table["editor"].to_pylist()) == {"uploaded"}
    assert run.exists("stages/pairs.json")


def test_numbers_of_a_local_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert numbers(["nodes=3"])["nodes"] == 3
    with pytest.raises(LocalClusterError, match="node=3: give nodes=2 cpus=2"):
        numbers(["node=3"])
    assert main(["nodes=two"]) == 2
    assert capsys.readouterr().err.startswith("cluster.local: nodes=two: give nodes=2")


def submit(url: str, entrypoint: str, runtime_env: dict[str, Any]) -> None:
    """Submit a job and wait for its success."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(url)
    limit = time.monotonic() + 300
    while True:
        try:
            job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
            break
        except RuntimeError as error:  # a node's agent starts later than the node
            assert "No available agent" in str(error) and time.monotonic() < limit - 240
            time.sleep(0.5)
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < limit, client.get_job_logs(job)
        time.sleep(0.2)
    assert status == JobStatus.SUCCEEDED, client.get_job_logs(job)


def test_nodes_come_to_an_empty_cluster_and_one_is_killed_under_gans(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head without CPUs, as in cluster/, which has lost its node when gans starts, and then gets
    two, of which one is lost.

    cluster.actors=0: an actor on each that comes. Every concept is there once, and equal to what
    two actors of one machine made; so is base, which was trained in one go here.
    """
    words = [*finished.copy(tmp_path / "run"), "cluster.actors=0"]
    run = RunDir(str(tmp_path / "run"))

    def done() -> list[str]:
        return [f for f in run.files("adapters") if f.endswith("/metrics.json")]

    def busy() -> list[Any]:
        return [n for n in cluster.worker_nodes if "ray::MapWorker" in children(raylet(n))]

    head = {"num_cpus": 0, "include_dashboard": False}
    with started(monkeypatch, head, nodes=1) as cluster:
        address = {"RAY_ADDRESS": cluster.address}
        with Driver(["base", *words, "redo=[base]"], tmp_path, **address) as driver:
            driver.wait()
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        with Driver(["gans", *words], tmp_path, **address) as driver:
            driver.wait_until(lambda: "the first of the actors" in driver.output())
            for _ in range(2):
                cluster.add_node(wait=False, num_cpus=1, object_store_memory=SMALL)
            driver.wait_until(lambda: len(busy()) == 2 and len(done()) > 0)
            cluster.remove_node(busy()[0], allow_graceful=False)
            assert len(done()) < 15
            driver.wait()
    for name in ("translator", "discriminator"):
        path = f"base/{name}.safetensors"
        assert run.read(path) == (finished.folder / path).read_bytes()
    assert run.read_json("stages/gans.json")["summary"]["adapters"] == len(done()) == 15
    concepts = load_concepts(run)
    assert {f.split("/")[1] for f in done()} == {
        c.concept_id for c in with_adapter(concepts) if c.split != "test"
    }
    assert run.files("errors") == []
    for metrics in done():
        path = metrics.replace("metrics.json", WEIGHTS_FILE)
        ours, theirs = load_file(run.path(path)), load_file(finished.folder / path)
        assert ours.keys() == theirs.keys()
        assert all((ours[k] == theirs[k]).all() for k in ours), path


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def test_training_goes_on_with_the_nodes_that_are_left(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on a node each; one node is lost and none comes instead of it."""
    words = [w for w in finished.copy(tmp_path / "run") if not w.startswith("base.steps")]
    words += ["base.steps=400", "base.checkpoint_every=20", "base.workers=2"]
    words += ["cluster.least_workers=1", "cluster.training_cpus=2"]
    run = RunDir(str(tmp_path / "run"))
    run.delete("train")

    def step() -> int:
        return max(last_checkpoint(tmp_path / "run").values(), default=0)

    with started(monkeypatch, {"num_cpus": 0, "include_dashboard": False}, nodes=2) as cluster:
        address = {"RAY_ADDRESS": cluster.address}
        # Train first waits for the two workers that it knew places for, 60 s by itself
        address["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
        with Driver(["base", *words, "redo=[base]"], tmp_path, **address) as driver:
            driver.wait_until(lambda: step() >= 40)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            lost, seen = step(), len(driver.output())
            driver.wait()
            after = re.findall(r"base: (\d+)/400 steps", driver.output()[seen:])
    summary = run.read_json("stages/base.json")["summary"]
    assert lost < 400 and summary["workers"] == 1 and math.isfinite(summary["l1"])
    # from the last checkpoint, not from the start
    assert min(map(int, after)) > lost - 20
