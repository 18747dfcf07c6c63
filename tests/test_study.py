"""Studies: what a variant shares with the run it branches from, and what is made of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.artifacts import RunDir
from pipelines.config import ConfigError, load_config
from pipelines.contenders import PREDICTION
from pipelines.stages import STAGES
from tests.conftest import Finished
from tuning import study
from tuning.study import branch, figure, keys_of, load_study, merged, shared_stages, table


@pytest.mark.parametrize("name", sorted(p.stem for p in study.STUDIES.glob("*.yaml")))
def test_every_variant_of_every_study_is_a_valid_configuration(name: str) -> None:
    loaded = load_study(name)
    seen = set()
    for own in loaded.variants.values():
        config = load_config(merged(["preset=small"], loaded.keys, own, study.VALIDATION))
        assert config.adapt.split == "val"
        seen.add(repr(config))
    assert len(seen) == len(loaded.variants) > 1


def test_a_study_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no study 'nix'; there are .*concepts"):
        load_study("nix")
    monkeypatch.setattr(study, "STUDIES", tmp_path)
    for text, message in (
        ("axis: x", "no variants"),
        ("axis: x\nvariant: {}", "variant"),
        ("variants: {a: [seed=1]}", "axis"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_study("bad")
    assert study.main(["runs/none", "bad"]) == 2
    (tmp_path / "good.yaml").write_text("axis: x\nvariants: {a: [seed=1], b: []}")
    assert study.main([str(tmp_path / "none"), "good"]) == 2
    assert study.main(["s3://bucket/run", "good"]) == 2


def test_a_branch_shares_the_stages_that_its_configuration_leaves_alone(
    finished: Finished, tmp_path: Path
) -> None:
    run = RunDir(str(finished.folder))
    words = [*finished.words, f"run_dir={finished.folder}"]
    names = [s.name for s in STAGES]
    assert shared_stages(load_config(words), run) == names
    assert shared_stages(load_config(merged(keys_of(run), words[-1:])), run) == names
    assert "preset=tiny" in keys_of(run) and "repeats=2" in keys_of(run)
    for key, first in (
        ("weights.concepts=5", "weights"),
        ("generator.image_steps=0", "generator"),
        ("adapt.split=val", "adapt"),
    ):
        shared = shared_stages(load_config([*words, key]), run)
        assert shared == names[: names.index(first)]
    with pytest.raises(ConfigError, match="shares no stage"):
        shared_stages(load_config([*words, "seed=7"]), run)
    shared = names[: names.index("generator")]
    branch(finished.folder, tmp_path / "branch", shared)
    twin = RunDir(str(tmp_path / "branch"))
    assert twin.files("weights") and twin.files("pairs") and not twin.files("generator")
    assert twin.files("adapters") == run.files("adapters") != []
    for name in twin.files("adapters"):
        assert Path(twin.url(name)).stat().st_ino == Path(run.url(name)).stat().st_ino


def test_the_table_and_figure_of_a_study(tmp_path: Path) -> None:
    def point(before: float, after: float) -> dict[str, object]:
        ends = {"before": {"l1": before}, "after": {"l1": after}}
        return {"sets": {"atoms": {"concepts": 3, "methods": {PREDICTION: ends}}}}

    points = {"40": point(0.3, 0.2), "80": point(0.25, 0.15)}
    assert "| 80 | 0.2500 → 0.1500 |" in table(points).splitlines()
    figure("concepts", points, tmp_path / "docs" / "x.png")
    assert (tmp_path / "docs" / "x.png").read_bytes()[:4] == b"\x89PNG"
