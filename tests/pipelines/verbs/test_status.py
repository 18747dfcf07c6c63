"""status and errors: a run's state from its directory alone."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.__main__ import main
from pipelines.config import tree as config_tree
from pipelines.config.load import load_config
from pipelines.runtime.heartbeat import FAILED, FINISHED, RUNNING, TRAINING, Beat
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.run_lock import locked
from pipelines.verbs.status import BEGUN, NOT_BEGUN, SILENT, rows_of


def beat(run: RunDir, stage: str, part: str = "", **more: Any) -> None:
    told = {"state": RUNNING, "at": time.time(), "host": "there", "pid": 7, "seconds": 90.0}
    name = f"{stage}.{part}" if part else stage
    run.write_json(f"progress/{name}.json", asdict(Beat(**(told | more))))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """concepts by an old version, pairs finished, base under way, gans failed, weights silent."""
    run = RunDir(str(tmp_path / "run"))
    config = load_config(["preset=tiny", f"run_dir={run.uri}"])
    run.write("config.yaml", config_tree.to_yaml(config).encode())
    run.write_json("stages/concepts.json", {"seconds": 4.5})
    run.write_json("stages/pairs.json", {"seconds": 30.0})
    beat(run, "pairs", state=FINISHED, total=20, done=20, unit="concepts", attempts=2)
    rows = [("a", "no face"), ("b", "no face"), ("c", "disk full")]
    table = pa.Table.from_pylist([{"stage": "pairs", "key": k, "reason": r} for k, r in rows])
    run.write_table("errors/pairs.parquet", table)
    beat(run, "base")
    beat(run, "base", TRAINING, done=40, total=100, unit="steps", rate=2.0, note="L1 0.1")
    beat(run, "gans", state=FAILED, reason="training failed: no memory", done=3, total=9)
    beat(run, "weights", at=time.time() - 4000)
    run.write_json("stages/generator.started.json", {})
    return run


def test_every_state(run: RunDir) -> None:
    rows = {r.stage: r for r in rows_of(run)}
    assert {k: r.state for k, r in rows.items()} == {
        **{"concepts": FINISHED, "pairs": FINISHED, "base": RUNNING, "gans": FAILED},
        **{"weights": SILENT, "generator": BEGUN},
        **dict.fromkeys(("adapt", "evaluate", "report"), NOT_BEGUN),
    }
    assert rows["concepts"].seconds == 4.5
    assert (rows["pairs"].bad, rows["pairs"].attempts, rows["pairs"].done) == (3, 2, 20)
    base = rows["base"]
    assert (base.done, base.total, base.unit, base.left) == (40, 100, "steps", 30.0)
    assert rows["gans"].reason == "training failed: no memory" and rows["gans"].left is None
    assert rows["weights"].heard == pytest.approx(4000, abs=100)
    # a training that has ended says nothing of the stage's later parts
    beat(run, "base", TRAINING, at=time.time() - 500, done=100, total=100)
    beat(run, "base", done=1, total=2, unit="files")
    assert {r.stage: r for r in rows_of(run)}["base"].unit == "files"


def test_the_command(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"run_dir={run.uri}"]) == 1
    text = capsys.readouterr().out
    assert "held by nobody" in text
    assert "40/100 steps, 2/s" in text and "30 s left" in text and "L1 0.1" in text
    assert "3 bad" in text and "training failed: no memory" in text
    assert "last heard 1 h 6 min ago" in text and "2 of 9" in text
    with locked(run, ["gans", "preset=tiny"]):
        assert main(["status", f"run_dir={run.uri}", "--json", "price=2"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["held_by"]["command"] == "gans preset=tiny"
    pairs = told["stages"][1]
    assert pairs["stage"] == "pairs" and pairs["planned"] > 0
    assert pairs["money"] == pytest.approx(pairs["planned_money"] * 90 / pairs["planned"])
    for stage in ("gans", "weights"):
        run.delete(f"progress/{stage}.json")
    assert main(["status", f"run_dir={run.uri}"]) == 0


def test_the_watch_ends_with_the_run(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("base", "gans", "weights", "generator", "adapt", "evaluate", "report"):
        run.write_json(f"stages/{stage}.json", {"seconds": 1.0})
        beat(run, stage, state=FINISHED)
    assert main(["status", f"run_dir={run.uri}", "--watch"]) == 0
    assert "9 of 9" in capsys.readouterr().out


def test_errors_are_counted(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", f"run_dir={run.uri}"]) == 0
    first, keys, *_ = capsys.readouterr().out.splitlines()
    assert first.split() == ["pairs", "2", "no", "face"] and keys.strip() == "a, b"
    assert main(["errors", f"run_dir={run.uri}", "--json", "stage=pairs"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        **{"stage": "pairs", "reason": "disk full", "keys": ["c"]}
    }
    assert main(["errors", f"run_dir={run.uri}", "stage=gans"]) == 0
    assert "no bad rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["status", "run_dir=NONE"], "holds no run"),
        (["errors", "run_dir=NONE"], "holds no run"),
        (["status", "run_dir=RUN", "price=much"], "is no number"),
        (["status", "run_dir=RUN", "price=-1"], "at least 0"),
        (["errors", "run_dir=RUN", "stage=pears"], "must be one of concepts, pairs"),
        (["status"], "run_dir"),
    ],
)
def test_what_is_refused(
    words: list[str], reason: str, run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [w.replace("NONE", f"{run.uri}/none").replace("RUN", run.uri) for w in words]
    assert main(told) == 2
    assert reason in capsys.readouterr().err
