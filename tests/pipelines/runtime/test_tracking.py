"""Curves and pictures in other people's tools, read back by those tools' own readers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime import tracking
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.tracking import check, tell_rows, tracker

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def told(tool: str, tmp_path: Path, *words: str) -> tuple[Config, RunDir]:
    run = RunDir(str(tmp_path / "run"))
    return load_config(["preset=tiny", f"run_dir={run.uri}", f"tracking={tool}", *words]), run


def train(config: Config, run: RunDir, start: int, stop: int, wrong: float = 0.0) -> None:
    made = tracker(config, run, "generator-1", start)
    assert made
    for step in range(start + 1, stop + 1):
        made.step(step, {"denoising": step + wrong, "steps a second": 2.0})
    made.picture(stop, "source, made, true", lambda: PICTURE)
    made.close()


EXPECTED = {10: 5.5, 20: 15.5, 30: 25.5, 40: 35.5}
"""Of losses that are their step: means of ten."""


def test_tensorboard_reads_one_curve_of_two_attempts(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, run = told("tensorboard", tmp_path)
    train(config, run, 0, 30, wrong=0.0)
    # it was killed, and goes on from its last checkpoint, step 20
    train(config, run, 20, 40)
    read = EventAccumulator(f"{run.uri}/tracking/generator-1")
    read.Reload()
    assert {e.step: e.value for e in read.Scalars("denoising")} == EXPECTED
    assert [e.step for e in read.Images("source, made, true")][-1] == 40
    assert b"generator" in read.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_reads_one_curve_of_two_attempts(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config, run = told("mlflow", tmp_path)
    train(config, run, 0, 30)
    train(config, run, 20, 40)
    client = MlflowClient(f"file:{run.uri}/tracking")
    experiment = client.get_experiment_by_name("denoised-weights")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "generator-1" and found.data.tags["run_dir"] == run.uri
    history = client.get_metric_history(found.info.run_id, "denoising")
    assert {m.step: m.value for m in history} == EXPECTED
    files = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "source, made, true-000040.png"} <= files
    # another training of the run is another curve
    other = tracker(config, run, "base")
    other.close()
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_wandb_is_asked_for_one_run_of_two_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in: its own reader is its service."""
    asked: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, Any], int]] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            logged.append((values, step))

        def finish(self) -> None: ...

    class Wandb:
        Image = staticmethod(lambda picture: picture)

        @staticmethod
        def init(**options: Any) -> Run:
            asked.append(options)
            return Run()

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    config, run = told("wandb", tmp_path)
    train(config, run, 0, 20)
    train(config, run, 20, 40)
    assert asked[0]["id"] == asked[1]["id"] and asked[0]["name"] == "generator-1"
    assert [a["resume"] for a in asked] == [None, "allow"]
    assert asked[0]["config"]["generator.width"] == config.generator.width
    assert {s: v["denoising"] for v, s in logged if "denoising" in v} == EXPECTED


def test_the_last_steps_are_told_though_they_are_few(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, run = told("tensorboard", tmp_path)
    train(config, run, 0, 13)
    read = EventAccumulator(f"{run.uri}/tracking/generator-1")
    read.Reload()
    assert {e.step: e.value for e in read.Scalars("denoising")} == {10: 5.5, 13: 12.0}


def test_a_table_is_told_by_its_means(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, run = told("tensorboard", tmp_path)
    rows = [
        {"epoch": e, "l1": v, "fd": None, "method": m}
        for e, m, v in ((1, "a", 1.0), (1, "a", 3.0), (2, "a", 1.0), (1, "b", 5.0))
    ]
    tell_rows(tracker(config, run, "compare"), rows, "epoch", ("l1", "fd"), lambda r: r["method"])
    read = EventAccumulator(f"{run.uri}/tracking/compare")
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("l1/a")] == [(1, 2.0), (2, 1.0)]
    assert read.Tags()["scalars"] == ["l1/a", "l1/b"]


def test_without_a_tool_nothing_is_made(tmp_path: Path) -> None:
    config, run = told("", tmp_path)
    made = tracker(config, run, "base")
    assert not made
    made.step(10, {"l1": 1.0})
    made.picture(1, "x", lambda: pytest.fail("nobody looks"))
    made.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("breaks", ["__init__", "scalars", "picture"])
def test_a_tool_that_fails_stops_no_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    breaks: str,
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("the server is gone\nfor good")

    config, run = told("tensorboard", tmp_path)
    monkeypatch.setattr(tracking._TensorBoard, breaks, fails)
    made = tracker(config, run, "base")
    for step in range(1, 30):
        made.step(step, {"l1": 1.0})
    made.picture(30, "x", lambda: PICTURE)
    made.close()
    said = [line for line in capsys.readouterr().err.splitlines() if "tracking" in line]
    assert len(said) == 1 and "the work goes on: OSError: the server is gone" in said[0]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = RunDir(str(tmp_path)), RunDir("memory://run")
    check(load_config(["tracking=tensorboard"]), local)
    check(load_config(["tracking=tensorboard", f"tracking_place={tmp_path}"]), remote)
    for words, run, reason in (
        (["tracking=board"], local, "tracking=board: must be one of tensorboard, mlflow, wandb"),
        (["tracking=tensorboard"], remote, "give tracking_place=, a folder$"),
        (["tracking=mlflow"], remote, "a folder or the server's address"),
    ):
        with pytest.raises(ConfigError, match=reason):
            check(load_config(words), run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'denoised-weights\[mlflow\]'"):
        check(load_config(["tracking=mlflow"]), local)
