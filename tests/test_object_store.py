"""A run directory in an object store: a real S3 server (moto's) on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.artifacts import RunDir
from pipelines.base import load_base
from pipelines.config import load_config
from pipelines.gans import load_adapter
from pipelines.stages import STAGES, inventory
from tests.driver import Driver

BUCKET = "bucket"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a bucket; its address and keys are in the environment, as for any S3 store."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for key, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    server.stop()


def test_every_stage_runs_in_an_object_store_and_goes_on_after_a_kill(
    bucket: str, tmp_path: Path
) -> None:
    run = RunDir(f"{bucket}/runs/tiny")
    assert not run.local
    words = ["preset=tiny", "images.count=10", "base.steps=60", f"run_dir={run.uri}"]
    with Driver(["run", *words], tmp_path) as driver:
        driver.wait_until(lambda: bool(run.files("train/base")))  # its first checkpoint
        driver.kill()
    with Driver(["run", *words], tmp_path) as driver:
        printed = driver.wait()
    assert "base: continuing where it was stopped" in printed
    for stage in STAGES:
        assert run.read_json(f"stages/{stage.name}.json")["files"] == inventory(run, stage) != {}
    assert run.files("errors") == []
    adapter = load_adapter(run, run.files("adapters")[0].rpartition("/")[0])
    load_base(load_config(words), run)[0].check(adapter)


def test_what_a_store_refuses_is_one_line(bucket: str, tmp_path: Path) -> None:
    words = ["concepts", "preset=tiny", "run_dir=s3://no-such-bucket/run"]
    with Driver(words, tmp_path) as driver:
        assert driver.process.wait(120) == 1
        last = driver.output().strip().splitlines()[-1]
    assert last.startswith("denoised-weights: ") and "no-such-bucket" in last
