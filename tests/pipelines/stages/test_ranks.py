"""The command `ranks` on a run whose base is done: what it prints, writes and leaves alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from modeling.targets.rank_search import adapted_layers, rank_costs
from pipelines.__main__ import main
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_table import StageError
from pipelines.stages import ranks
from pipelines.stages.base import load_base
from pipelines.stages.gans import CollectAdapters
from tests.conftest import Finished


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(load_config(["preset=tiny"])):
        yield


@pytest.mark.parametrize("score", ["energy", "loss"])
def test_ranks_to_paste_and_nothing_else_changed(
    score: str,
    finished: Finished,
    ray: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*finished.copy(tmp_path / "run"), "lora.rank=2", f"ranks.score={score}"]
    words.append("ranks.steps=6")
    run = RunDir(str(tmp_path / "run"))

    def others() -> dict[str, str]:
        mine = ("ranks/", "stages/ranks", "progress/ranks", "config.yaml")
        return {f: run.checksum(f) for f in run.files("") if not f.startswith(mine)}

    before = others()
    assert main(["ranks", *words]) == 0
    first = capsys.readouterr()
    assert others() == before
    result = run.read_json(ranks.RESULT)
    found = {x["layer"]: x["rank"] for x in result["layers"]}
    # what is printed can be pasted: it is a preset's section, every layer named in order
    assert yaml.safe_load(first.out) == {"lora": {"ranks": found}}
    config = load_config([*words, f"lora.ranks={found}".replace("'", "")])
    assert config.lora.ranks == found
    searched, _ = load_base(config, run)
    uniform, _ = load_base(load_config(words), run)
    costs = rank_costs(uniform)
    assert list(found) == [g.name for g in adapted_layers(uniform)]
    assert searched.n_weights <= uniform.n_weights == 2 * sum(costs.values()) + affines(uniform)
    assert result["budget"] == 2 * sum(costs.values())
    assert result["weights"] == sum(costs[n] * r for n, r in found.items())
    assert set(found.values()) <= {1, 2, 4, 8} and len(set(found.values())) > 1
    # scores of the trainings themselves
    scores = result["validation"]
    assert scores["concepts"] == run.read_json("base/base.json")["concepts"]
    values = [scores[k] for k in (ranks.FOUND, ranks.CONFIGURED, ranks.HIGHEST, "identity")]
    assert all(0 < v < 2 for v in values) and len(set(values)) == 4
    difference = scores["difference"]
    assert difference["lo"] <= difference["mean"] <= difference["hi"]
    assert difference["mean"] == pytest.approx(scores[ranks.FOUND] - scores[ranks.CONFIGURED])
    # the same command again trains nothing and prints the same
    assert main(["ranks", *words]) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "ranks: finished earlier" in again.err
    assert main(["ranks", *words, "gans.lr=0.5"]) == 2
    assert "made with another configuration: gans.lr=0.005 then" in capsys.readouterr().err


def affines(translator: object) -> int:
    shapes = translator.shapes
    return sum(math.prod(s) for k, s in shapes.items() if "lora" not in k)


def test_what_is_trained_as_configured_is_what_gans_trains(
    finished: Finished, tmp_path: Path
) -> None:
    """Without Ray: the same scores as the collection's own, which makes them comparable."""
    finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    config = load_config([*finished.words, f"run_dir={run.uri}"])
    concept_id = run.read_json("base/base.json")["concepts"][0]
    batch = {"concept_id": np.array([concept_id])}
    ranks.TrainAtRanks(to_dict(config), run, 6, ranks.CONFIGURED)(batch)
    mine = run.read_json(f"ranks/{ranks.CONFIGURED}/{concept_id}.json")
    collected = CollectAdapters(to_dict(config), run, 6)(batch)
    theirs = json.loads(collected["metrics"][0])
    assert mine == {key: theirs[key] for key in ("l1", "identity")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"lora.rank=1 and lora.ranks make \d+ weights, which leaves no choice"),
        (["lora.rank=8"], r"lora.rank=8 and lora.ranks make \d+ weights"),
        (["lora.rank=2", "gans.steps=0"], "give ranks.steps"),
        (["ranks.choices=[2]"], "two or more ranks"),
        (["ranks.choices=[0,1]"], "each at least 1"),
        (["ranks.choices=[]"], "two or more ranks"),
        (["ranks.score=rank"], "must be one of loss, energy"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    words: list[str],
    message: str,
    finished: Finished,
    ray: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    given = [w for w in finished.copy(tmp_path / "run") if not w.startswith("gans.steps")]
    assert main(["ranks", *given, *words]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err.splitlines()[-1]) and captured.out == ""


def scored(run: RunDir, name: str, **l1: float) -> None:
    for concept_id, value in l1.items():
        run.write_json(f"ranks/{name}/{concept_id}.json", {"l1": value, "identity": 0.5})


def test_only_concepts_that_all_three_trainings_have_are_compared(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    with pytest.raises(StageError, match=r"at all three ranks: see .*errors/ranks\.parquet"):
        ranks.compare(run, ["a", "b", "c"])
    scored(run, ranks.HIGHEST, a=0.1, b=0.1, c=0.1)
    scored(run, ranks.CONFIGURED, a=0.3, c=0.4)
    scored(run, ranks.FOUND, a=0.2, b=9.0)
    one = ranks.compare(run, ["a", "b", "c"])
    assert one["concepts"] == ["a"] and one["difference"] == {"mean": pytest.approx(-0.1)}
    scored(run, ranks.FOUND, c=0.5)
    two = ranks.compare(run, ["a", "b", "c"])
    assert two["concepts"] == ["a", "c"] and two["better"] == 1
    assert two["difference"] == pytest.approx({"mean": 0, "lo": -0.1, "hi": 0.1})


def test_a_concept_that_diverges_is_an_error_row(
    finished: Finished, ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*finished.copy(tmp_path / "run"), "lora.rank=2", "gans.lr=1e30"]
    run = RunDir(str(tmp_path / "run"))
    assert main(["ranks", *words]) == 1
    assert "more than max_error_fraction=0.05" in capsys.readouterr().err.splitlines()[-1]
    rows = run.read_table("errors/ranks.parquet").to_pylist()
    concepts = run.read_json("base/base.json")["concepts"]
    assert {r["key"] for r in rows} == {f"highest/{i}" for i in concepts}
    assert all("non-finite" in r["reason"] for r in rows)
    assert run.files("ranks") == []
