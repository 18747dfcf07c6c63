"""How many steps the pilots find, by which score, and that checkpoints are kept only after that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling.metrics.distances import MetricError, frechet_distance, kid
from modeling.metrics.features import EfficientNetLite0
from modeling.targets.adapter_training import ConceptData
from pipelines.__main__ import main
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime import stage_graph as stages
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_table import StageError
from pipelines.stages import pilot
from pipelines.stages.pairs import load_pairs
from pipelines.stages.pilot import Curve, Pilot, decide, score_of
from tests.conftest import Finished

PILOTS = ["gans.steps=0", "gans.pilots=2", "gans.pilot_steps=20"]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(load_config(["preset=tiny"])):
        yield


def words_of(finished: Finished, to: Path, pilots: list[str] = PILOTS) -> list[str]:
    return [w for w in finished.copy(to) if not w.startswith("gans.steps=")] + pilots


def test_adapters_are_kept_only_after_the_pilots_converged(
    finished: Finished, ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(finished, tmp_path / "run"), "gans.checkpoints=3", "redo=[gans]"]
    assert main(["gans", *words]) == 0
    run = RunDir(str(tmp_path / "run"))
    found = run.read_json("adapters/pilot.json")
    assert found["scored"] == list(range(21)) and len(found["values"]) == 21
    assert found["score"] == "l1" and found["values"][-1] < found["values"][0]
    assert len(found["concepts"]) == 2 and found["images"] == 2 and found["failed"] == {}
    assert found["converged"] <= found["kept"][0] and len(found["kept"]) == 3
    assert found["kept"][-1] == found["steps"] > found["converged"]
    folders = [Path(f) for f in run.files("adapters") if f.endswith(".safetensors")]
    concepts = {f.parts[1] for f in folders}
    assert len(concepts) > 10 and len(folders) == 3 * len(concepts)
    steps = {int(f.parts[2].removeprefix("step-")) for f in folders if len(f.parts) == 4}
    assert sorted(steps | {found["steps"]}) == found["kept"]
    assert {run.read_json(f"adapters/{c}/metrics.json")["steps"] for c in concepts} == {
        found["steps"]
    }
    assert f"converged after {found['converged']} steps" in capsys.readouterr().err


def test_a_stopped_stage_goes_on_with_the_number_it_found(
    finished: Finished, tmp_path: Path
) -> None:
    """Without Ray: nothing is trained again."""
    config = load_config(words_of(finished, tmp_path / "run"))
    run = RunDir(config.run_dir)
    run.write_json(pilot.RESULT, {"steps": 17})
    assert pilot.find_steps(config, run) == 17


def test_features_score_few_images_by_kid_and_say_so(
    finished: Finished, ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["gans.steps=0", "gans.pilot_score=fd", "gans.pilots=1", "gans.pilot_steps=2"]
    config = load_config(words_of(finished, tmp_path / "run", one))
    run = RunDir(config.run_dir)
    steps = pilot.find_steps(config, run)
    found = run.read_json(pilot.RESULT)
    assert found["score"] == "kid" and found["scored"] == [0, 1, 2] and steps == found["steps"]
    assert "by kid of 2 validation images (a Fréchet distance needs 2048)" in (
        capsys.readouterr().err
    )
    # the first score is the base's own
    (concept_id,) = found["concepts"]
    pairs = load_pairs(run, concept_id, "val")
    trainer = Pilot(to_dict(config), run)
    extract = EfficientNetLite0(config.evaluate.features_size)
    token = trainer.texts[concept_id].tokens
    with torch.no_grad():
        made = trainer.translator(
            trainer.translator.zero_adapter(),
            torch.from_numpy(pairs.source) / 127.5 - 1,
            token,
            torch.ones(len(token), dtype=torch.bool),
        )
    images = (made.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()
    x, y = (extract(np.ascontiguousarray(i.transpose(0, 2, 3, 1))) for i in (images, pairs.edited))
    assert found["values"][0] == pytest.approx(kid(x, y), rel=1e-3)


def test_many_images_are_scored_by_the_frechet_distance(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features_of(_: Any) -> Any:
        return lambda images: images.reshape(len(images), 8, -1).mean(2)

    monkeypatch.setattr(pilot, "features_of", features_of)
    config = load_config([*finished.words, f"run_dir={finished.folder}"])
    trainer = Pilot(to_dict(config), RunDir(config.run_dir))
    token = next(iter(trainer.texts.values())).tokens
    images = torch.randint(0, 256, (2, 2048, 3, 4, 4), dtype=torch.uint8)
    data = ConceptData("x", images[0], images[1], token)
    adapter = trainer.translator.zero_adapter()
    found = trainer.measure(data, "fd")(adapter)

    x = pilot.translate_all(
        trainer.translator, {k: v[None] for k, v in adapter.items()}, images[0], [token]
    )[0]
    a, b = (
        features_of(None)(i.permute(0, 2, 3, 1).contiguous().numpy().astype(np.float64))
        for i in (x, images[1])
    )
    expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert found == pytest.approx(expected, rel=1e-4)
    few = ConceptData("x", images[0, :2047], images[1, :2047], token)
    with pytest.raises(MetricError, match="n = 2047 is mostly bias"):
        trainer.measure(few, "fd")(adapter)


def test_which_score_so_many_images_allow() -> None:
    assert [score_of("fd", n) for n in (2, 2047, 2048)] == ["kid", "kid", "fd"]
    assert [score_of("l1", n) for n in (2, 2048)] == ["l1", "l1"]


def curve(name: str, values: list[float], error: str = "") -> Curve:
    return Curve(name, [10 * i for i in range(len(values))], values, error)


def test_the_rule_is_applied_to_the_mean_of_what_did_not_diverge() -> None:
    config = load_config(["preset=tiny", *PILOTS, "gans.pilot_tolerance=0.1"])
    curves = [
        curve("a", [1.0, 0.4, 0.3, 0.01, 0.0]),
        curve("b", [1.0, 0.6, 0.1, 0.01, 0.0]),
        curve("c", [1.0, float("nan"), 0.0, 0.0, 0.0], "loss became non-finite at step 3 of 40"),
    ]
    by_l1 = decide(config, curves, "l1")
    assert by_l1["values"] == pytest.approx([1.0, 0.5, 0.2, 0.01, 0.0])
    assert by_l1["concepts"] == ["a", "b"] and list(by_l1["failed"]) == ["c"]
    assert by_l1["converged"] == by_l1["steps"] == 40 and by_l1["kept"] == [40]
    # a tenth of the start, not of the best
    assert decide(config, curves, "kid")["converged"] == 30
    with pytest.raises(StageError, match=r"all 1 pilot concepts diverged \(loss .*lower gans\.lr"):
        decide(config, curves[2:], "l1")


def test_a_diverging_pilot_says_so(finished: Finished, tmp_path: Path) -> None:
    config = load_config([*words_of(finished, tmp_path / "run"), "gans.lr=1e30"])
    run = RunDir(config.run_dir)
    concept_id = run.read_json("base/base.json")["concepts"][0]
    assert "non-finite" in Pilot(to_dict(config), run).curve(concept_id, "l1").error


def test_the_features_that_score_pilots_are_part_of_what_gans_depends_on() -> None:
    def keys(*words: str) -> set[str]:
        config = load_config(["preset=tiny", *words])
        return set(stages.depends_on(stages.BY_NAME["gans"], config))

    own = {"lora", "gans", "precision"}
    assert keys() == keys("gans.pilot_score=fd") == keys("gans.steps=0") == own
    assert keys("gans.steps=0", "gans.pilot_score=fd") == {*own, *stages.FEATURES}
