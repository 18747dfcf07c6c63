"""Stages on a Ray cluster of several nodes: one is killed, and code is uploaded by a job."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from modeling.lora import WEIGHTS_FILE
from pipelines.artifacts import RunDir
from pipelines.concepts import load_concepts
from tests.conftest import Finished
from tests.driver import ROOT, Driver, children

SMALL = 100 * 2**20
QUICK = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 1000, "failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs, as in cluster/, and two nodes with three each."""
    settings = {f"RAY_health_check_{key}": str(value) for key, value in QUICK.items()}
    os.environ |= settings
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": SMALL})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=3, object_store_memory=SMALL)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()
        for key in settings:
            del os.environ[key]


def test_a_job_runs_the_code_that_it_uploads(cluster: Any, tmp_path: Path) -> None:
    """As in the README, from a copy that names its editor otherwise, to tell it from ours."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    code, run = tmp_path / "code", RunDir(str(tmp_path / "run"))
    for package in ("modeling", "pipelines"):
        shutil.copytree(ROOT / package, code / package)
    shutil.copy(ROOT / ".gitignore", code)
    editors = code / "modeling/editors.py"
    text = editors.read_text()
    assert text.count('name = "avatar"') == 1
    editors.write_text(text.replace('name = "avatar"', 'name = "uploaded"'))

    client = JobSubmissionClient(f"http://{cluster.webui_url}")
    command = f"{sys.executable} -m pipelines {{}} preset=tiny images.count=10 run_dir={run.uri}"
    entrypoint = f"env | sort; ulimit -a; cat /proc/self/status; strace -V | head -1; {command.format('concepts')}"
    limit = time.monotonic() + 300
    while True:
        try:
            job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(code)})
            break
        except RuntimeError as error:  # the nodes' agents start later than the nodes
            assert "No available agent" in str(error) and time.monotonic() < limit
            time.sleep(0.5)
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < limit, client.get_job_logs(job)
        time.sleep(0.2)
    assert status == JobStatus.SUCCEEDED, client.get_job_logs(job)
    concepts = {c.concept_id for c in load_concepts(run) if c.origin != "paraphrased"}
    table = pq.read_table(f"{run.uri}/pairs")
    assert table.num_rows == 10 * len(concepts)
    assert set(table["concept_id"].to_pylist()) == concepts
    assert set(table["editor"].to_pylist()) == {"uploaded"}
    assert run.exists("stages/pairs.json")


def test_a_node_killed_under_gans_costs_nothing(
    cluster: Any, finished: Finished, tmp_path: Path
) -> None:
    """Every concept once, and equal to what one machine made; so is base, in one go here."""
    words = finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    with Driver(["base", *words, "redo=[base]"], tmp_path, RAY_ADDRESS=cluster.address) as driver:
        driver.wait()
    for name in ("translator", "discriminator"):
        path = f"base/{name}.safetensors"
        assert run.read(path) == (finished.folder / path).read_bytes()

    def done() -> list[str]:
        return [f for f in run.files("adapters") if f.endswith("/metrics.json")]

    with Driver(["gans", *words], tmp_path, RAY_ADDRESS=cluster.address) as driver:
        driver.wait_until(lambda: len(done()) > 0)
        busy = [n for n in cluster.worker_nodes if "ray::MapWorker" in children(raylet(n))]
        lost, before = busy[0], len(done())
        cluster.remove_node(lost, allow_graceful=False)
        assert before < 15
        driver.wait()
    assert run.read_json("stages/gans.json")["summary"]["adapters"] == len(done()) == 15
    concepts = load_concepts(run)
    assert {f.split("/")[1] for f in done()} == {
        c.concept_id for c in concepts if c.split == "train" and c.origin != "paraphrased"
    }
    assert run.files("errors") == []
    for metrics in done():
        path = metrics.replace("metrics.json", WEIGHTS_FILE)
        ours, theirs = load_file(run.path(path)), load_file(finished.folder / path)
        assert ours.keys() == theirs.keys()
        assert all((ours[k] == theirs[k]).all() for k in ours), path


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
