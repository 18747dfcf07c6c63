"""`denoised-weights plan`: counts by hand, laws, what a real run left, and its words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.concepts.planning import plan_concepts
from modeling.editors.diffusion.costs import evaluation_cost
from modeling.editors.diffusion.recipes import recipes
from modeling.editors.registry import DIFFUSION as DIFFUSION_EDITORS
from modeling.editors.registry import METHODS, make_editor
from pipelines.__main__ import main
from pipelines.config.derived import resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.plan import calibration
from pipelines.plan.alternatives import FEWER, NO_IMAGES, changed
from pipelines.plan.bookkeeping import at_once, books_of, files_of
from pipelines.plan.command import make_plan
from pipelines.plan.counts import concept_counts, edits, image_splits
from pipelines.plan.estimate import rows_of, with_editors
from pipelines.plan.outcome import Plan, Row
from pipelines.plan.rates import Rates, assumed, edit_rate
from pipelines.plan.shapes import Shapes
from pipelines.plan.work import Pool
from pipelines.runtime import pool
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_table import BY_NAME
from pipelines.stages.sources import split_images
from tests.conftest import Finished
from tests.rehearsal.__main__ import RESULT
from tests.rehearsal.configuration import words
from tests.tiny_clip import save_clip

CLUSTER = [
    "cluster.nodes=1",
    "cluster.gpus_per_node=8",
    "cluster.actors=8",
    "cluster.gpus_per_actor=1",
    "cluster.gpu_training=true",
]


@cache
def planned(*words: str) -> tuple[Config, Shapes, Rates]:
    config = load_config(list(words))
    shapes = Shapes(config)
    return config, shapes, assumed(config, shapes)


def rows(config: Config, shapes: Shapes, rates: Rates) -> dict[str, Row]:
    return {r.stage: r for r in rows_of(config, shapes, rates)}


@pytest.mark.parametrize("preset", ["tiny", "demo", "small"])
def test_concepts_are_counted_as_they_are_planned(preset: str) -> None:
    config = load_config([f"preset={preset}"])
    editor = make_editor(resolve_editor(config))
    spec = config.concepts
    concepts = plan_concepts(spec, config.seed, editor.supports)
    counts = concept_counts(config)
    own = [c for c in concepts if c.origin != "paraphrased"]
    assert counts.texts == len(concepts)
    assert counts.paraphrases == len(concepts) - len(own)
    assert counts.train == sum(c.split == "train" and c.adapter for c in own)
    assert counts.paired == sum(not c.adapter for c in own)
    held = Counter((c.split, c.heldout) for c in own if c.split != "train")
    assert held == {(s, h): n for s, sets in counts.heldout.items() for h, n in sets.items() if n}


def test_concepts_that_cannot_be_had_are_one_line() -> None:
    config = load_config(["preset=tiny", "concepts.test_atoms=99"])
    with pytest.raises(ConfigError, match=r"^concepts: test_atoms: 99 wanted"):
        concept_counts(config)


@given(st.integers(10, 2000))
def test_images_are_split_as_the_pairs_are(count: int) -> None:
    split = Counter(split_images([str(i) for i in range(count)], seed=0).values())
    assert split == image_splits(count)


def test_tiny_by_hand() -> None:
    """11 + 4 concepts with adapters, 2 + 1 held out, 4 + 2 with pairs alone; 20 images."""
    config, shapes, rates = planned("preset=tiny")
    found = rows(config, shapes, rates)
    assert found["pairs"].counts["edits by avatar"] == 18 * 20 + 6 * 5
    gans = found["gans"].counts
    assert gans["images trained on"] == 15 * 6 * 4
    assert gans["images drawn"] == 2 * 15 * 2
    assert found["weights"].counts["files read"] == 15
    n, b = shapes.layout.n_blocks, shapes.layout.block_size
    assert found["weights"].stored_bytes == 15 * n * b * 4
    assert found["base"].counts["images trained on"] == 12 * 8
    generator = found["generator"].counts
    assert generator["concepts denoised by the transformer, seed 0"] == 10 * 4
    assert generator["concepts drawn by the transformer, seed 0"] == 2 * 3
    assert found["adapt"].counts["images trained on"] == 3 * 4 * 4
    evaluate = found["evaluate"].counts
    # 5 concepts × 3 points × 16 pairs; 4 steps × 3 concepts × 2 iterations × (1 or 2, and 2) pairs
    assert generator["images whose gradients make the basis"] == 5 * 3 * 16
    assert generator["images seen by the refiner"] == 4 * 3 * 2 * ((4 - 2) / 2 + 2)
    # prediction and five controls in two regimes, two more by learned steps; the prediction's own
    # fine-tune is stage adapt's
    assert evaluate["images trained on, short"] == (3 * (2 * 6 + 2) - 3) * 4 * 4
    assert evaluate["images trained on, at length"] == 3 * 6 * 4
    # these at steps 0, 1, 2, 4; the ceiling ten times; two for the nearest adapter; 8 images
    assert evaluate["images drawn"] == 3 * ((2 * 6 + 2) * 4 + 10 + 2) * 8
    seconds = gans["images trained on"] / rates.table["collect"].per_second
    seconds += gans["images drawn"] / rates.table["draw"].per_second
    seconds += gans["MB written"] / rates.table["write"].per_second
    seconds += gans["texts loaded"] / rates.table["load"].per_second
    assert found["gans"].busy_hours == pytest.approx(seconds / 3600)
    seconds = seconds / 2 + 5 + found["gans"].books["seconds"]
    assert found["gans"].wall_hours == pytest.approx(seconds / 3600)


def test_what_a_finished_run_left_is_what_was_planned(finished: Finished) -> None:
    config, shapes, rates = planned(*finished.words)
    found = rows(config, shapes, rates)
    files = list((finished.folder / "pairs").glob("*.parquet"))
    made = sum(pq.read_metadata(f).num_rows for f in files)
    assert found["pairs"].counts["edits by avatar"] == made
    adapters = len(list(finished.folder.glob("adapters/*/metrics.json")))
    counts = concept_counts(config)
    assert adapters == counts.train + counts.of("val")
    assert len(list(finished.folder.glob("adapted/*/timings.json"))) == counts.of("test")

    planned_files = files_of(config, shapes, counts)
    for stage in ("concepts", "pairs", "base", "gans", "weights", "adapt", "evaluate", "report"):
        run, listed = RunDir(str(finished.folder)), BY_NAME[stage].outputs
        left = sum(len(run.files(out)) for out in listed)
        assert left == pytest.approx(planned_files[stage], abs=3), stage

    def stored(folder: str, pattern: str) -> int:
        return sum(f.stat().st_size for f in (finished.folder / folder).rglob(pattern))

    for stage, folder, pattern in (
        ("pairs", "pairs", "*.parquet"),
        ("gans", "adapters", "*"),
        ("adapt", "adapted", "*"),
        ("weights", "weights/blocks", "*"),
    ):
        assert found[stage].stored_bytes == pytest.approx(stored(folder, pattern), rel=0.35), stage


def test_books_grow_with_the_counts_and_no_faster() -> None:
    """Twice the concepts, at most twice the requests; a store's are slower than a disk's."""
    words = ["preset=paper", "images.path=."]
    config, shapes, _ = planned(*words)
    counts = concept_counts(config)
    many = replace(counts, train=2 * counts.train)
    one, two = books_of(config, shapes, counts), books_of(config, shapes, many)
    for stage in one:
        assert one[stage].requests <= two[stage].requests <= 2 * one[stage].requests
    assert two["gans"].requests > 1.5 * one["gans"].requests
    gans = one["gans"]
    disk = changed(config, {"plan.files_per_s": 1000.0})
    assert gans.seconds(config) > 10 * gans.seconds(disk) > 0
    waited = gans.requests / 10 + gans.listed * 0.2 + gans.mb / 100
    assert gans.seconds(config) == pytest.approx(waited)
    # the adapters themselves are read READERS at once, as long as the client keeps up
    assert at_once(changed(config, {"plan.requests_per_s": 1e9})) == READERS * 10
    assert at_once(config) == READERS * 10 and at_once(disk) == 1000


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6))
def test_twice_the_gpus_take_half_the_time_and_as_many_hours(times: int) -> None:
    config, shapes, rates = planned("preset=tiny", *CLUSTER)
    fast = ("texts_loaded_per_s", "files_per_s", "requests_per_s", "write_mb_per_s")
    config = changed(config, {"plan.overhead_s": 0.0, **{f"plan.{key}": 1e12 for key in fast}})
    rates = assumed(config, shapes)
    config = changed(config, {"cluster.actors": 1, "cluster.gpus_per_node": 8 * times})
    wide = changed(config, {"cluster.actors": times})
    one, many = rows(config, shapes, rates), rows(wide, shapes, rates)
    for stage in ("pairs", "gans", "adapt", "evaluate"):
        shared = min(times, many[stage].devices)
        assert many[stage].busy_hours == pytest.approx(one[stage].busy_hours)
        assert many[stage].wall_hours == pytest.approx(one[stage].wall_hours / shared, rel=1e-6)
    # training workers are the configuration's, however many GPUs there are
    assert many["generator"].wall_hours == pytest.approx(one["generator"].wall_hours)


def test_all_gpus_of_the_paper_s_cluster_work_however_many_they_are() -> None:
    """Twice the nodes are twice the actors and half the time, for the same GPU-hours."""
    four, shapes, rates = planned("preset=paper")
    eight = changed(four, {"cluster.nodes": 8})
    one, two = rows(four, shapes, rates), rows(eight, shapes, rates)
    for stage in ("pairs", "gans", "adapt", "evaluate"):
        assert (one[stage].devices, two[stage].devices) == (32, 64)
        assert not any("wait" in note for note in two[stage].notes)
    held = [sum(r.held_hours for r in found.values()) for found in (one, two)]
    assert held[1] < 1.05 * held[0]
    # they decide the batch
    assert two["generator"].devices == one["generator"].devices == 32


def test_a_plan_without_gpus_counts_the_actors_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "cores", lambda: 9)
    monkeypatch.setattr(pool, "memory_bytes", lambda: None)
    config, shapes, rates = planned("preset=demo")
    one = make_plan(config, shapes, rates)
    assert (one.device, one.devices) == ("actor", 8)
    three = make_plan(changed(config, {"cluster.nodes": 3}), shapes, rates)
    assert three.devices == 24


@given(st.integers(1, 10**5), st.integers(10, 1000), st.integers(0, 20), st.integers(1, 6))
def test_edits(concepts: int, images: int, pilots: int, editors: int) -> None:
    tried, kept = edits(concepts, images, pilots, editors)
    assert edits(concepts, 2 * images, pilots, editors)[1] == 2 * kept
    assert edits(2 * concepts, images, pilots, editors) == (2 * tried, 2 * kept)
    assert edits(concepts, images, pilots, 2 * editors) == (2 * tried, kept)
    assert edits(concepts, images, 0, editors) == (0, kept)


def test_edits_at_the_paper_s_scale() -> None:
    # five editors on every image would be 488 million
    assert 5 * edits(97_611, 1000, 0, 1)[1] == 488_055_000
    assert sum(edits(97_611, 1000, 16, 5)) == 97_611 * (1000 + 80)


def test_twice_the_images_are_twice_the_edits_and_bytes() -> None:
    config, shapes, rates = planned("preset=demo")
    more = changed(config, {"images.count": 2 * config.images.count})
    one, two = rows(config, shapes, rates)["pairs"], rows(more, shapes, rates)["pairs"]
    assert two.counts["edits by avatar"] == 2 * one.counts["edits by avatar"]
    assert two.stored_bytes == pytest.approx(2 * one.stored_bytes)


BEST = ["editor=best", "editing.clip=x", "editing.size=512"]
DIFFUSION = ["preset=tiny", *CLUSTER, *BEST, "editing.candidates=[img2img,null_text]"]


def test_several_editors_and_what_one_gets_for_less() -> None:
    config, shapes, rates = planned(*DIFFUSION)
    plan = make_plan(config, shapes, rates)
    (pairs,) = (r for r in plan.rows if r.stage == "pairs")
    assert plan.dominant == "pairs"
    # 16 pilots on each of two, then all; of each editor half
    both = 18 * (2 * 16 + 20) + 6 * (2 * 16 + 5)
    assert pairs.counts["edits by img2img"] == pairs.counts["edits by null_text"] == both / 2
    assert any("each is taken to win equally often" in note for note in pairs.notes)
    assert [a.of_total for a in plan.alternatives] == sorted(a.of_total for a in plan.alternatives)
    assert any("img2img alone" in a.what for a in plan.alternatives)
    other = changed(config, {"editor": "sd_turbo"})
    again = make_plan(other, shapes, assumed(other, shapes))
    (found,) = (a for a in plan.alternatives if "four steps" in a.what)
    assert found.held_hours == pytest.approx(again.held_hours) and found.quality == "not measured"


def test_what_a_cheaper_plan_costs_in_quality_is_what_was_measured() -> None:
    """The figures of docs/results.md: of the studies on `small`, validation concepts."""
    results = Path(__file__).parents[3] / "tuning" / "results" / "small"
    study = json.loads((results / "concepts.json").read_text())["variants"]
    assert study.keys() >= {"326", "651"}
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text()
    for figure in ("0.199 → 0.095", "0.157 → 0.090", "0.247 → 0.099"):
        assert figure in page.replace("**", "")
    assert all(f in FEWER for f in ("0.157 → 0.199", "0.090 → 0.095"))
    assert all(f in NO_IMAGES for f in ("0.157 → 0.247", "0.090 → 0.099"))


def test_a_measured_editor_keeps_its_speed_with_fewer_evaluations() -> None:
    config, _, rates = planned(*DIFFUSION)
    old = rates.table["edit img2img"]
    fast = replace(old, per_second=3 * old.per_second, measured=True)
    measured = Rates(rates.table | {"edit img2img": fast}, rates.weights)
    other = changed(config, {"plan.evaluations": {"img2img": 4}})
    found, plain = (with_editors(other, r).table["edit img2img"] for r in (measured, rates))
    assert found.per_second == pytest.approx(3 * plain.per_second)
    assert plain.per_second > 5 * old.per_second


def test_what_cannot_be_halved_is_not_proposed() -> None:
    """Ten images cannot be halved; at most three changes are told."""
    config, shapes, rates = planned("preset=tiny", "images.count=10")
    plan = make_plan(config, shapes, rates)
    assert not any("images.count" in a.words for a in plan.alternatives)
    assert len(plan.alternatives) <= 3 and all(0.5 < a.of_total < 1 for a in plan.alternatives)


def test_every_editor_has_a_cost_and_a_new_one_asks_for_it() -> None:
    config, _, _ = planned(*DIFFUSION)
    costs = {e: edit_rate(config, e, Pool(1, 1.0)).flops for e in DIFFUSION_EDITORS}
    assert max(costs, key=lambda e: costs[e]) == "null_text"
    slow = [costs[e] for e in METHODS if e not in recipes()]
    assert min(slow) == costs["img2img"]
    assert all(costs[e] < min(slow) / 2 for e in recipes() if e != "flux2_klein")
    assert costs["flux2_klein"] < costs["img2img"] * 2
    half = changed(config, {"editing.steps": {"img2img": 25}})
    network = 60 * evaluation_cost().denoiser
    saved = costs["img2img"] - edit_rate(half, "img2img", Pool(1, 1.0)).flops
    assert saved == pytest.approx(network / 2)
    turbo, one = edit_rate(config, "sd_turbo", Pool(1, 1.0)), evaluation_cost("sd21").denoiser
    guided = changed(config, {"editing.guidance": {"sd_turbo": 7.5}})
    more = edit_rate(guided, "sd_turbo", Pool(1, 1.0)).flops - turbo.flops
    assert more == pytest.approx(2 * one) and "guided" not in turbo.source
    with pytest.raises(ConfigError, match="how much an edit by 'sketchy' costs is not known: give"):
        edit_rate(config, "sketchy", Pool(1, 1.0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.gpus_per_actor=1"], "cluster.gpus_per_node=0: this configuration works on GPUs"),
        ([*CLUSTER, "base.workers=9"], "base.workers=9: the cluster has room for 8 workers"),
        (["calibrate=perhaps"], "calibrate must be true or false"),
        (["--calibrate", "calibrate=true"], "calibrate is given twice"),
        (["json"], "'json' is not of the form key=value; did you mean json=…?"),
        (["json="], "'json=' is not of the form json=value"),
        (["json=nowhere/plan.json"], "json=nowhere/plan.json: cannot be written"),
        (["price=dear"], "plan.price must be a number"),
        (["plan.editor_utilisation=1.5"], "must lie in [0, 1)"),
        (["nodes=8"], "unknown key nodes"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "preset=tiny", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("denoised-weights: ") and message in line
    assert list(tmp_path.iterdir()) == []


def test_table_and_json_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", *DIFFUSION, "price=2"]
    assert main([*words, "json=plan.json"]) == 0
    table = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert printed == plan
    assert plan["money"] == pytest.approx(2 * plan["held_hours"])
    assert plan["held_hours"] == pytest.approx(8 * plan["wall_hours"])
    assert plan["measured_on"] is None and not any(r["measured"] for r in plan["rates"].values())
    head, *lines = table.splitlines()
    assert head.split() == ["stage", "FLOPs", "stored", "GPU-hours", "wall", "cost", "rates"]
    assert [line.split()[0] for line in lines[:9]] == [r["stage"] for r in plan["rows"]]
    assert "pairs dominates" in table and "assumed: 1,850 evaluations" in table
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def _calibrated(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Plan, Rates, Any]:
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    config, shapes, rates = planned(*words)
    threads = torch.get_num_threads()
    try:
        measured, machine = calibration.calibrate(config, shapes, rates)
    finally:
        torch.set_num_threads(threads)
    return make_plan(config, shapes, measured), measured, machine


def test_calibration_measures_every_rate_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan, rates, machine = _calibrated(monkeypatch, "preset=tiny", "rival.train=true")
    unmeasured = {name for name, rate in rates.table.items() if not rate.measured}
    assert unmeasured == {"edit filter"}  # not this run's editor
    assert all(0 < r.per_second < float("inf") for r in rates.table.values())
    assert machine["cores"] and machine["load_average_before"]
    for row in plan.rows:
        assert all(source.startswith("measured here on ") for source in row.basis), row.stage
    assert list(tmp_path.iterdir()) == []


def test_the_model_that_scores_edits_is_timed(tmp_path: Path) -> None:
    own = ["preset=tiny", "editor=img2img", f"editing.clip={save_clip(tmp_path)}"]
    config, shapes, rates = planned(*own)
    bench = calibration.Bench(config, shapes)
    per_second, how = bench.measures()["score"]()
    assert per_second > 0 and how == config.editing.clip
    (pairs,) = (r for r in make_plan(config, shapes, rates).rows if r.stage == "pairs")
    assert pairs.counts["pictures scored"] == pairs.counts["edits by img2img"]
    assert "score" not in planned("preset=tiny")[2].table


def test_what_cannot_be_measured_stays_assumed_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, rates, _ = _calibrated(monkeypatch, *DIFFUSION)
    _, _, before = planned(*DIFFUSION)
    for name in ("collect", "base", "generator step", "edit img2img"):
        assert not rates.table[name].measured
        assert rates.table[name].per_second == before.table[name].per_second
        assert "not measured: the stage works on GPUs" in rates.table[name].source
    assert rates.table["features"].measured  # works on cores
    _, rates, _ = _calibrated(monkeypatch, "preset=tiny", "editor=img2img")
    assert "not measured: the editor 'img2img' cannot load" in rates.table["edit img2img"].source


def test_the_books_are_those_of_the_rehearsal() -> None:
    """Of stages that were begun again in a store, all rows done (tests/rehearsal)."""
    measured = json.loads(RESULT.read_text())["s3, 20000"]
    config, shapes, rates = planned(*words(measured["concepts"], "s3://rehearsal/run"))
    books = books_of(config, shapes, concept_counts(config))
    work = rows(config, shapes, rates)
    assert {"pairs", "gans", "weights", "adapt", "evaluate"} <= measured["stages"].keys()
    for stage in ("pairs", "gans", "weights", "adapt", "evaluate"):
        asked = measured["stages"][stage]["end_requests"]
        wanted = books[stage].requests + work[stage].counts.get("files read", 0)
        assert asked / 1.5 <= wanted <= 1.5 * asked, stage
        # 20 ms before each request, and some of the store's own
        there = changed(config, {"plan.files_per_s": 45.0})
        took = measured["stages"][stage]["end_seconds"]
        if stage in ("pairs", "gans", "evaluate"):  # the others work, too
            spent = books[stage].seconds(there) + config.plan.overhead_s
            assert took / 1.5 <= spent <= 1.5 * took, stage
        assert files_of(config, shapes, concept_counts(config))[stage] == pytest.approx(
            measured["stages"][stage]["files"], abs=2
        )
