"""Studies as YAML files, what a branch shares with its run, and what is made of a trial's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import STAGES
from pipelines.stages.contenders import PREDICTION
from tests.conftest import Finished
from tests.driver import ROOT
from tuning import export, run_outcome, study
from tuning.branches import VALIDATION, branch, folder_of, shared_stages
from tuning.intervals import check_equal, over_concepts, over_seeds, text
from tuning.overfit import OVERFIT
from tuning.study import StudyError, expanded, known, load_study, own_words
from tuning.words import generator_words, keys_of, merged


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("name", known())
def test_every_variant_of_every_study_is_a_valid_configuration(name: str, preset: str) -> None:
    loaded = load_study(name)
    run = [f"preset={preset}", *(["gans.steps=20"] if preset == "tiny" else [])]
    network = generator_words(load_config(run), loaded.overfit.network)
    seen = set()
    for own in expanded(loaded).values():
        if loaded.trial == "overfit":
            config = load_config(merged(run, network, loaded.keys, own, OVERFIT))
            assert config.generator.image_steps == 0
        else:
            config = load_config(merged(run, loaded.keys, own, VALIDATION))
            assert config.adapt.split == "val"
        seen.add(repr(config))
    assert len(seen) == len(expanded(loaded)) > 1


@pytest.mark.parametrize(
    "content, message",
    [
        ("axis: x\nwhy: y", "no variants and no space"),
        ("axis: x\nwhy: y\nvariant: {}", "variant"),
        ("why: y\nvariants: {a: [seed=1], b: []}", "axis"),
        ("axis: x\nvariants: {a: [seed=1], b: []}", "why"),
        ("axis: x\nwhy: y\nvariants: {a: [seed=1]}", "one variant compares nothing"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\nvariants: {a: []}", "not both"),
        ("axis: x\nwhy: y\nspace: {seed: 1}", "space.seed=1: must be a list"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\nscheduler: asha", "scored only at its end"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\nscheduler: best", "must be one of none, asha"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\ntrial: train", "must be one of overfit, run"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\nseeds: 0", "seeds=0: must be at least 1"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\nseeds: few", "seeds"),
        ("axis: x\nwhy: y\nspace: {seed: [1, 2]}\npaper: {heads: [a], rows: {b: []}}", "0 values"),
        ("axis: [", "bad.yaml"),
        ("- axis", "bad.yaml"),
    ],
)
def test_a_bad_study_is_one_clear_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_study(str(tmp_path / "bad.yaml"))
    assert "\n" not in str(error.value)


def test_a_study_by_name_or_path_and_words_that_override_it() -> None:
    with pytest.raises(ConfigError, match=r"no study 'nix'; there are .*concepts"):
        load_study("nix")
    mine, others = own_words(["seeds=1", "overfit.concepts=[hat]", "seed=4", "weights.centre=x"])
    assert others == ["seed=4", "weights.centre=x"]
    loaded = load_study(str(study.STUDIES / "block_size.yaml"), mine)
    assert (loaded.seeds, loaded.overfit.concepts) == (1, ["hat"])
    assert expanded(load_study("prediction"))["prediction=v, t=900"] == [
        "generator.prediction=v",
        "adapt.t=900",
    ]


def test_an_overfit_study_starts_from_the_section_of_its_kind() -> None:
    small = load_config(["preset=small"])
    words = generator_words(small, "unet")
    assert "generator.channels=[64, 128]" in words and "generator.kind=unet" in words
    assert "generator.depth=3" in generator_words(small, "transformer")
    with pytest.raises(ConfigError, match=r"describes no transformer: give rival.kind"):
        generator_words(load_config(["preset=paper", "images.source=folder"]), "transformer")


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


def test_a_record_from_before_a_key_existed_is_shared(finished: Finished, tmp_path: Path) -> None:
    words = finished.copy(tmp_path / "older")
    marker = tmp_path / "older/stages/gans.json"
    record = json.loads(marker.read_text())
    del record["config"]["gans"]["lr_floor"]
    marker.write_text(json.dumps(record))
    assert "gans" in shared_stages(load_config(words), RunDir(str(tmp_path / "older")))


def test_branches_lie_beside_a_local_run() -> None:
    assert folder_of(RunDir("/runs/a"), "rank", "64 wide, 2").as_posix() == "/runs/a-rank-64-wide-2"
    with pytest.raises(ConfigError, match="hard links: give a local folder"):
        folder_of(RunDir("memory://bucket/run"), "rank", "1")


def rows_of(variant: str, l1: dict[str, float], n: int = 4, seeds: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "variant": variant,
            "method": PREDICTION,
            "concept_id": concept,
            "heldout": "atoms",
            "seed": seed,
            "step": step,
            "l1": value + seed / 100 - step / 10,
            "kid": None,
            "fd": None,
            "n": n,
            "fd_n": None,
        }
        for concept, value in l1.items()
        for seed in range(seeds)
        for step in (0, 1)
    ]


def point(before: float, after: float) -> dict[str, Any]:
    ends = {"before": {"l1": before}, "after": {"l1": after}}
    return {"sets": {"atoms": {"concepts": 3, "methods": {PREDICTION: ends}}}}


def test_variants_are_compared_concept_by_concept() -> None:
    base = {c: 0.2 + i / 10 for i, c in enumerate("abcdef")}
    lower = {c: v - 0.05 for c, v in base.items()}
    points = {"40": point(0.45, 0.35), "80": point(0.4, 0.3)}
    rows = rows_of("40", base, seeds=2) + rows_of("80", lower, seeds=2)
    out = run_outcome.compared(points, rows)
    difference = out["80"]["against_first"]["atoms"]["before"]
    # concepts differ far more than variants do: only a paired difference shows it
    assert difference["mean"] == pytest.approx(-0.05) and difference["verdict"] == "better"
    assert out["40"]["intervals"]["atoms"]["after"]["mean"] == pytest.approx(0.455 - 0.1)
    heads, cells = run_outcome.table("concepts", out)
    assert heads == ["concepts", "unseen single concepts"]
    assert cells[1][1].count("*") == 2 and "*" not in cells[0][1]
    with pytest.raises(StudyError, match="4 images in '40' and on 5 in '80'"):
        run_outcome.compared(points, rows_of("40", base) + rows_of("80", lower, n=5))
    with pytest.raises(StudyError, match="other concepts"):
        run_outcome.compared(points, rows_of("40", base) + rows_of("80", {"a": 0.1, "b": 0.2}))
    with pytest.raises(StudyError, match="2 seeds and '40' 1"):
        run_outcome.compared(points, rows_of("40", base) + rows_of("80", lower, seeds=2))


def test_scores_of_unequally_many_images_are_refused() -> None:
    rows = rows_of("a", {"x": 0.1}) + rows_of("b", {"x": 0.2})
    for row, n in zip(rows, (2048, 2048, 4096, 4096), strict=True):
        row |= {"fd": 1.0, "fd_n": n}
    with pytest.raises(StudyError, match=r"fd of x is taken on 2048 images .* equal"):
        check_equal(rows)
    check_equal(rows[:2])
    check_equal(rows_of("a", {"x": 0.1}, n=4) + rows_of("a", {"y": 0.1}, n=5))


def test_intervals() -> None:
    few = over_seeds([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # Student's t for 2 degrees of freedom
    assert (few["mean"], few["lo"], few["hi"]) == pytest.approx((2, 2 - half, 2 + half))
    assert over_seeds([0.5]) == {"mean": 0.5, "lo": None, "hi": None, "n": 1}
    many = over_concepts([0.0] * 9 + [1.0])
    assert many["lo"] < many["mean"] < many["hi"] and many["n"] == 10
    assert text(few, 2) == "2.00 ± 2.48" and text(over_seeds([0.5]), 1) == "0.5"
    assert text({"mean": 0.5, "lo": 0.4, "hi": 0.7, "n": 9}, 1) == "0.5 (0.4 to 0.7)"
    for bad in ([], [1.0, float("nan")]):
        with pytest.raises(StudyError):
            over_seeds(bad)


@pytest.mark.parametrize("name", ["block_index", "concepts", "image_loss"])
def test_results_of_older_studies_stay_readable(name: str, tmp_path: Path) -> None:
    found = json.loads((ROOT / f"tuning/results/small/{name}.json").read_text())
    points = {v: found["variants"][v] for v in found["order"]}
    heads, cells = run_outcome.table(found["axis"], points)
    assert len(heads) == 4 and [row[0] for row in cells] == found["order"]
    assert all(cell.count("→") == 1 for row in cells for cell in row[1:])
    run_outcome.figure(found["axis"], points, tmp_path / "docs" / "x.png")
    assert (tmp_path / "docs" / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_export_copies_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(str(tmp_path / "run"))
    table = {"heads": ["x", "L1"], "rows": [["a", "0.1"]]}
    run.write_json("tuning/size/summary.json", {"table": table, "config": {"run_dir": "/home"}})
    run.write("tuning/size/figure.png", b"png")
    assert export.export(run, "mine", "size", tmp_path) == export.markdown(**table)
    kept = json.loads((tmp_path / "tuning/results/mine/size.json").read_text())
    assert kept == {"table": table}
    assert (tmp_path / "docs/mine-size.png").read_bytes() == b"png"
    assert export.main([run.uri, "mine", "nix"]) == 1 and export.main([run.uri]) == 2


def test_a_study_is_planned_by_what_each_variant_makes_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def planned(study: str, *words: str) -> dict[str, dict[str, Any]]:
        given = ["command=tune", f"study={study}", "preset=tiny", "json=-", *words]
        assert main(["plan", *given]) == 0
        return {row["stage"]: row for row in json.loads(capsys.readouterr().out)["rows"]}

    made = {name: row["work"] for name, row in planned("checkpoints", "gans.steps=20").items()}
    after = "generator, adapt, evaluate"
    again = f"again: gans, weights, {after}"
    assert made == {"1": f"again: {after}", "2": again, "4": again}
    one, three = (planned("generator_size", f"seeds={n}") for n in (1, 3))
    assert all("gans" not in row["work"] for row in one.values())
    assert all(three[name]["wall_hours"] > row["wall_hours"] for name, row in one.items())
    blocks = planned("block_size", "seeds=2", "generator.steps=10")
    assert blocks["128"]["work"] == "4 trials × 10 steps × 1"  # the words go before the study's
    assert blocks["128"]["counts"]["concepts denoised"] == 40


def test_a_plan_of_no_study_or_no_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["command=tune"], "study=NAME"),
        (["command=tune", "study=none"], "no study"),
        (["command=serve"], "must be one of run, compare, tune"),
    ):
        assert main(["plan", *words]) == 2
        assert told in capsys.readouterr().err
