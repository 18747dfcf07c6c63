"""A stage's heartbeat: what it tells, that it ends, and that it stops no work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.runtime import heartbeat
from pipelines.runtime.heartbeat import FAILED, FINISHED, RUNNING, STOPPED, TRAINING, beating, read
from pipelines.runtime.log import Progress
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "run"))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_tells_what_is_counted(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    with beating(run, "gans"):
        first = read(run, "gans")
        assert first is not None and (first.state, first.total, first.left) == (RUNNING, 0, None)
        progress = Progress("gans", 10, "concepts", 2)
        progress.add(note="validation L1 0.1")
        time.sleep(0.02)
        progress.add(2, bad=True)

        def told() -> bool:
            beat = read(run, "gans")
            return beat is not None and beat.done == 5

        until(told)
        beat = read(run, "gans")
        assert beat is not None and beat.state == RUNNING and beat.beats > first.beats
        assert (beat.total, beat.unit, beat.bad) == (10, "concepts", 2)
        assert beat.rate > 0 and beat.left == pytest.approx(5 / beat.rate)
    last = read(run, "gans")
    assert last is not None and last.state == FINISHED and last.done == 5
    # another thing is counted outside, and nobody tells of it
    Progress("elsewhere", 1, "rows").add()
    assert read(run, "gans") == last


def test_how_it_ended_and_how_often_it_was_begun(run: RunDir) -> None:
    with pytest.raises(StageError), beating(run, "base"):
        raise StageError("no room\non the disk")
    beat = read(run, "base")
    assert beat is not None and (beat.state, beat.attempts) == (FAILED, 1)
    assert "no room" in beat.reason and "\n" not in beat.reason
    with pytest.raises(KeyboardInterrupt), beating(run, "base"):
        time.sleep(0.2)
        raise KeyboardInterrupt
    stopped = read(run, "base")
    assert stopped is not None and (stopped.state, stopped.attempts) == (STOPPED, 2)
    with beating(run, "base"):
        pass
    done = read(run, "base")
    assert done is not None and (done.state, done.attempts, done.reason) == (FINISHED, 3, "")
    assert done.seconds >= stopped.seconds >= 0.1
    heartbeat.forget(run, "base")
    assert read(run, "base") is None


def test_a_trainings_worker_tells_beside_it(run: RunDir) -> None:
    try:
        heartbeat.tell(run, "base")
        Progress("base", 100, "steps", 40)
        assert read(run, "base") is None
        told = read(run, "base", TRAINING)
        assert told is not None and told.state == RUNNING
    finally:
        assert heartbeat._active is not None
        heartbeat._active.end(STOPPED)
        heartbeat._active = None
    last = read(run, "base", TRAINING)
    assert last is not None and (last.done, last.total) == (40, 100)


def test_it_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder can be made here")
    run = RunDir(str(tmp_path / "run" / "below"))
    with beating(run, "gans"):
        Progress("gans", 1, "concepts").add()
    assert read(run, "gans") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": 1}'])
def test_a_damaged_one_is_none(run: RunDir, text: str) -> None:
    run.write("progress/gans.json", text.encode())
    assert read(run, "gans") is None


SCRAPED = """
import socket, sys, time, urllib.request
import ray
from pipelines.runtime.heartbeat import beating
from pipelines.runtime.log import Progress
from pipelines.runtime.run_dir import RunDir
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(num_cpus=1, include_dashboard=False, _metrics_export_port=port)
with beating(RunDir(sys.argv[1]), "gans"):
    progress = Progress("gans", 10, "concepts")
    progress.add(3)
    progress.add(2, bad=True)
until = time.monotonic() + 90
text = ""
while "ray_denoised_weights_stage_done" not in text and time.monotonic() < until:
    time.sleep(1)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    except OSError:
        pass
print("\\n".join(line for line in text.splitlines() if "denoised_weights" in line))
"""


@pytest.mark.slow
def test_rays_exporter_has_it_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRAPED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    values = {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in done.stdout.splitlines()
        if 'stage="gans"' in line and 'unit="concepts"' in line
    }
    assert values["ray_denoised_weights_stage_done"] == 5, done.stdout
    assert values["ray_denoised_weights_stage_total"] == 10
    assert values["ray_denoised_weights_stage_bad"] == 2
    assert values["ray_denoised_weights_stage_attempts"] == 1
