"""The report: numbers against ones made by hand, honest sentences, a page that stands alone."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling.concepts.planning import Concept, to_table
from modeling.images import encode_png
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.presentation.numbers import compare, duration, reach, summarise
from pipelines.presentation.pictures import MAX_PNG_BYTES, chosen
from pipelines.report import build as report
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import StageError
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION
from pipelines.stages.evaluate import MEMORY, PICTURES, ROWS

# L1 before and after the fine-tune, for concept i add i / 100 to all: differences stay exact
LEVELS = {
    PREDICTION: (0.20, 0.10),
    "zero LoRA": (0.40, 0.15),
    "mean adapter": (0.35, 0.14),
    "nearest text": (0.20, 0.12),  # alternates by ± 0.02 around the prediction at step 0
    "ridge": (0.17, 0.11),  # the prediction loses before the fine-tune
    "shuffled prompt": (0.38, 0.16),
}
NASTY = '<script>alert("x")</script> & a beard'


def concept(i: int, heldout: str) -> Concept:
    text = NASTY if (i, heldout) == (0, "combinations") else f"{heldout} {i}"
    return Concept(f"{heldout}-{i}", text, "combined", ("hair", "mood"), "test", heldout)


def level(method: str, i: int, when: int) -> float:
    swing = 0.02 * (-1) ** i if (method, when) == ("nearest text", 0) else 0.0
    return LEVELS[method][when] + swing + i / 100


def build(folder: Path) -> tuple[Config, RunDir]:
    """A finished run: 6 combinations, 2 atoms without a mean adapter; steps 0, 2, 4."""
    config = load_config(["preset=tiny", "report.concepts=3", "report.pictures=2"])
    run_dir = RunDir(str(folder))
    concepts = [concept(i, "combinations") for i in range(6)] + [
        concept(i, "atoms") for i in range(2)
    ]
    trained = Concept("trained-1", "a trained beard", "facial", ("beard",), "train")
    run_dir.write_table("concepts.parquet", to_table([trained, *concepts]))
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for c in concepts:
        i, key = int(c.concept_id[-1]), {"concept_id": c.concept_id, "text": c.text}

        def row(method: str, step: int, l1: float, kid: float | None, c=c, key=key) -> None:
            rows.append(
                {**key, "method": method, "split": "test", "heldout": c.heldout, "seed": 0}
                | {
                    "step": step,
                    "seconds": 0.01 + step / 10,
                    "l1": l1,
                    "kid": kid,
                    "fd": None,
                    "n": 8,
                }
            )

        def show(method: str, step: int, key=key) -> None:
            for name in ("one", "two"):
                image = encode_png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                picture = {"method": method, "step": step, "image_id": name, "image": image}
                pictures.append({**key, **picture})

        show("source", 0)
        show("ground truth", 0)
        row(IDENTITY, 0, 0.5 + i / 100, 0.3)
        show(IDENTITY, 0)
        for method in LEVELS:
            if (method, c.heldout) == ("mean adapter", "atoms"):
                continue
            before, after = level(method, i, 0), level(method, i, 1)
            row(method, 0, before, 0.2)
            row(method, 2, (before + after) / 2, None)
            row(method, 4, after, 0.1)
            show(method, 0)
            show(method, 4)
        row(CEILING, 6, 0.08 + i / 100, 0.05)
        show(CEILING, 6)
        times = {"predict": 0.01, "load": 0.002, "coreset": 0.05, "finetune": 0.4}
        run_dir.write_json(
            f"adapted/{c.concept_id}/timings.json", {**times, "threads": 1, "device": "cpu"}
        )
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist(rows, ROWS))
    run_dir.write_table("evaluation/pictures.parquet", pa.Table.from_pylist(pictures, PICTURES))
    copies = [
        {k: r[k] for k in ("method", "concept_id", "text", "split", "heldout", "seed", "n")}
        | {"nearest": "trained-1", "distance": 0.25, "pictures": 0.1, "nearest_l1": 0.3}
        for r in rows
        if (r["method"], r["step"]) == (PREDICTION, 0)
    ]
    run_dir.write_table("evaluation/memory.parquet", pa.Table.from_pylist(copies, MEMORY))
    about = {"features": "EfficientNet-Lite0", "training_gap": 0.75}
    run_dir.write_json("evaluation/about.json", about)
    for name, l1 in (("trained-1", 0.3), ("trained-2", 0.1)):
        metrics = {"concept_id": name, "l1": l1, "zero": 0.25, "identity": 0.2, "seconds": 1.0}
        run_dir.write_json(f"adapters/{name}/metrics.json", metrics)
    marker = {"seconds": 3.5, "commit": "abc123", "versions": {"torch": "2.15"}, "summary": {}}
    run_dir.write_json("stages/concepts.json", marker)
    bad = [{"stage": "pairs", "key": str(k), "reason": "the image is empty"} for k in range(3)]
    run_dir.write_table("errors/pairs.parquet", pa.Table.from_pylist(bad))
    return config, run_dir


class Reader(HTMLParser):
    """Collects what a browser would load, and checks that elements close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
            if key == "alt":
                self.alts.append(value or "")
            if key == "id":
                self.ids.append(value or "")
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[str, Any], str, Reader]:
    config, run_dir = build(tmp_path_factory.mktemp("run"))
    report.run(config, run_dir)
    page = run_dir.read("report/index.html").decode()
    return run_dir, run_dir.read_json("report/summary.json"), page, Reader(page)


def test_the_page_loads_nothing_from_elsewhere(made: Any) -> None:
    _, _, page, reader = made
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert "script" not in reader.tags and "iframe" not in reader.tags
    assert "@import" not in page and "url(http" not in page and "url(//" not in page
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_texts_are_escaped(made: Any) -> None:
    _, _, page, reader = made
    assert "<script>" not in page
    assert any(NASTY in word for word in reader.words)


def test_all_methods_are_there_and_a_missing_one_is_named(made: Any) -> None:
    _, summary, page, _ = made
    for method in (*LEVELS, IDENTITY, CEILING, "source", "ground truth"):
        assert method in page
    assert summary["sets"]["atoms"]["methods"]["mean adapter"]["before"] is None
    assert "no rows" in page and "not scored" in page


def test_numbers_equal_those_by_hand(made: Any) -> None:
    _, summary, page, _ = made
    combined = summary["sets"]["combinations"]
    offset = (0 + 1 + 2 + 3 + 4 + 5) / 6 / 100
    for method, (before, after) in LEVELS.items():
        numbers = combined["methods"][method]
        assert numbers["before"]["l1"] == pytest.approx(before + offset, abs=1e-12)
        assert numbers["after"]["l1"] == pytest.approx(after + offset, abs=1e-12)
        assert [p["step"] for p in numbers["curve"]] == [0, 2, 4]
    zero = combined["against"]["zero LoRA"]["before"]
    assert (zero["wins"], zero["losses"], zero["total"]) == (6, 0, 6)
    for key in ("mean", "lo", "hi"):  # the same difference for every concept
        assert zero[key] == pytest.approx(-0.2, abs=1e-12)
    near = combined["against"]["nearest text"]["before"]
    assert (near["wins"], near["verdict"]) == (3, "undecided")
    assert near["lo"] < 0 < near["hi"]
    assert combined["against"][CEILING]["after"]["mean"] == pytest.approx(0.02, abs=1e-12)
    assert combined["against"][IDENTITY]["after"]["mean"] == pytest.approx(-0.4, abs=1e-12)
    assert combined["methods"][PREDICTION]["after"]["seconds"] == pytest.approx(0.41)
    assert combined["methods"][PREDICTION]["after"]["kid"] == pytest.approx(0.1)
    assert f"{LEVELS[PREDICTION][0] + offset:.3f}" in page
    # 6 concepts lose to ridge at step 0; nearest text wins 3 there; the atoms lose 2 and 1
    assert summary["losses"]["compared"] == 6 * 6 * 2 + 2 * 5 * 2
    assert len(summary["losses"]["lost"]) == 6 + 3 + 2 + 1


def test_a_loss_is_said(made: Any) -> None:
    _, summary, page, reader = made
    first, before, after, ceiling = summary["sets"]["combinations"]["sentences"]
    assert first.startswith(
        "For 6 unseen combinations the predicted adapter, made in 10 ms, starts"
    )
    assert "starts at L1 0.225 (zero LoRA 0.425," in first
    assert "loses to ridge (0 of 6 concepts)" in before
    assert "shows no clear difference to nearest text (3 of 6 concepts)" in before
    assert "ridge" in after and "loses" not in after
    assert "in 6 steps" in ceiling
    assert any("loses to ridge" in word for word in reader.words)
    assert 'class="worse"' in page and 'class="better"' in page
    few = " ".join(summary["sets"]["atoms"]["sentences"])
    assert "beats" not in few and "with fewer than 5 concepts that decides nothing" in few


def test_what_does_not_work_is_listed(made: Any) -> None:
    _, summary, page, _ = made
    assert [a["concept_id"] for a in summary["adapters"]["not_better_than_identity"]] == [
        "trained-1"
    ]
    assert "1 of 2 training adapters do not beat identity" in page and "a trained beard" in page
    assert summary["errors"] == {"pairs": {"the image is empty": 3}}
    assert "3 rows with errors" in page and "the image is empty" in page
    assert "abc123" in page and "torch 2.15" in page


def test_every_picture_is_shown(made: Any) -> None:
    _, _, _, reader = made
    # source, truth, ceiling once; six methods at two ends; 2 images a cell
    combined, atoms = 3 * 2 * (3 + 6 * 2), 2 * 2 * (3 + 5 * 2)
    assert len(reader.alts) == combined + atoms + 3 * 3  # and three of each in the head
    assert sum(alt.startswith(f"{PREDICTION}, step 4") for alt in reader.alts) == 2 * (3 + 2)


def test_the_grid_is_a_small_png(made: Any) -> None:
    run_dir, _, _, _ = made
    data = run_dir.read("report/pictures.png")
    assert len(data) <= MAX_PNG_BYTES
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "PNG" and image.width > 800


def test_the_same_run_gives_the_same_bytes(made: Any, tmp_path: Path) -> None:
    run_dir, _, page, _ = made
    config, again = build(tmp_path)
    config.run_dir = "elsewhere"
    report.run(config, again)
    assert again.read("report/summary.json") == run_dir.read("report/summary.json")
    moved = again.read("report/index.html").decode()
    assert moved.replace("run_dir: elsewhere", "") == page.replace("run_dir: runs/tiny", "")


def test_without_rows_the_stage_says_what_to_do(tmp_path: Path) -> None:
    config, run_dir = build(tmp_path)
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist([], ROWS))
    with pytest.raises(StageError, match="evaluate"):
        report.run(config, run_dir)
    run_dir.delete("evaluation/rows.parquet")
    with pytest.raises(ArtifactError, match=r"rows\.parquet"):
        report.run(config, run_dir)


def test_a_run_with_little_in_it_still_gives_a_page(tmp_path: Path) -> None:
    """One concept, no fine-tune, no controls, no pictures, a score that is not finite."""
    config, run_dir = build(tmp_path)
    config.evaluate.controls, config.evaluate.ceiling = [], False
    table = run_dir.read_table("evaluation/rows.parquet").to_pylist()
    kept = [r for r in table if r["concept_id"] == "atoms-0" and r["step"] == 0]
    kept = [r for r in kept if r["method"] in (PREDICTION, IDENTITY)]
    kept.append({**kept[0], "method": "ridge", "l1": float("nan")})
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist(kept, ROWS))
    run_dir.write_table("evaluation/pictures.parquet", pa.Table.from_pylist([], PICTURES))
    for folder in ("adapted", "adapters", "errors", "stages"):
        run_dir.delete(folder)
    report.run(config, run_dir)
    page = run_dir.read("report/index.html").decode()
    summary = json.loads(run_dir.read("report/summary.json"))
    assert Reader(page).open == []
    assert summary["not_finite"] == 1 and "without a finite L1, left out of every mean: 1." in page
    assert "No pictures were kept" in page and "none of 6 concepts was scored" in page
    assert summary["sets"]["atoms"]["against"][IDENTITY]["before"]["lo"] is None


def test_without_a_prediction_no_claim_is_made(tmp_path: Path) -> None:
    config, run_dir = build(tmp_path)
    rows = run_dir.read_table("evaluation/rows.parquet").to_pylist()
    rows = [r for r in rows if r["method"] != PREDICTION]
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist(rows, ROWS))
    said = report.run(config, run_dir)["sentences"]["combinations"]
    assert said == ["For 6 unseen combinations no predicted adapter was scored."]


def test_concepts_are_chosen_evenly_whatever_their_scores() -> None:
    concepts = [concept(i, "combinations") for i in range(9)] + [concept(0, "atoms")]
    ids = [c.concept_id for c in concepts]
    assert [c.concept_id for c in chosen(concepts, ids, 3)] == [
        "combinations-0",
        "combinations-4",
        "combinations-8",
        "atoms-0",
    ]
    assert chosen(concepts, ids[1:2], 3) == [concepts[1]]


def test_seeds_of_a_concept_count_once() -> None:
    about = {
        "text": "t",
        "heldout": "atoms",
        "step": 0,
        "seconds": 1.0,
        "kid": None,
        "fd": None,
        "n": 4,
    }
    rows = [
        {**about, "concept_id": c, "method": m, "seed": seed, "l1": l1}
        for c, m, seed, l1 in (
            ("a", PREDICTION, 0, 0.1),
            ("a", PREDICTION, 1, 0.3),
            ("b", PREDICTION, 0, 0.5),
            ("a", "ridge", 0, 0.4),
        )
    ]
    numbers = summarise(rows, [PREDICTION, "ridge"])["atoms"]
    assert numbers["methods"][PREDICTION]["before"]["l1"] == pytest.approx((0.2 + 0.5) / 2)
    against = numbers["against"]["ridge"]["before"]
    assert (against["total"], against["mean"]) == (1, pytest.approx(-0.2))


scores = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 64).map(lambda k: k / 64))


@settings(max_examples=30, deadline=None)
@given(scores, scores)
def test_comparing_the_other_way_round_turns_every_number(ours: dict, theirs: dict) -> None:
    forth, back = compare(ours, theirs), compare(theirs, ours)
    if forth is None or back is None:
        assert forth is back is None and not ours.keys() & theirs.keys()
        return
    assert forth["total"] == len(ours.keys() & theirs.keys())
    assert (forth["wins"], forth["losses"]) == (back["losses"], back["wins"])
    assert forth["mean"] == pytest.approx(-back["mean"])
    turned = {"better": "worse", "worse": "better"}
    assert back["verdict"] == turned.get(forth["verdict"], forth["verdict"])
    if forth["lo"] is not None:
        assert forth["lo"] <= forth["mean"] + 1e-12 and forth["mean"] <= forth["hi"] + 1e-12
        assert (forth["lo"], forth["hi"]) == (
            pytest.approx(-back["hi"]),
            pytest.approx(-back["lo"]),
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0039, "3.9 ms"), (0.0994, "99 ms"), (0.243, "0.24 s"), (12.4, "12 s"), (200, "3 min 20 s")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def track(method: str, concept_id: str, points: list[tuple[int, float, float]]) -> list[dict]:
    """Rows (step, seconds, L1) of one method on one concept."""
    about = {"method": method, "concept_id": concept_id, "seed": 0}
    return [{**about, "step": s, "seconds": t, "l1": l1} for s, t, l1 in points]


def test_time_to_reach_what_a_long_training_reaches() -> None:
    rows = track(CEILING, "a", [(10, 5.0, 0.5), (60, 30.0, 0.2)])
    rows += track(CEILING, "b", [(10, 5.0, 0.5), (60, 30.0, 0.2)])
    rows += track(PREDICTION, "a", [(0, 1.0, 0.6), (4, 3.0, 0.2), (8, 5.0, 0.1)])
    rows += track(PREDICTION, "b", [(0, 1.0, 0.6), (4, 3.0, 0.4), (8, 5.0, 0.3)])
    found = reach(rows, PREDICTION, CEILING)
    assert found is not None
    # a: 30 s against 3 s; b never; the mean curve, 0.6, 0.3, 0.2, gets to 0.2 after 5 s
    assert (found["reached"], found["total"], found["ratio"]) == (1, 2, 5.0)
    assert found["mean_ratio"] == pytest.approx(30 / 5)
    assert (found["l1"], found["seconds"]) == (pytest.approx(0.2), 30.0)
    assert reach(rows, "ridge", CEILING) is None
    never = reach([r for r in rows if r["concept_id"] == "b"], PREDICTION, CEILING)
    assert never is not None and never["mean_ratio"] is None and never["ratio"] == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.01, 1))
def test_time_to_reach_lies_between_the_scored_steps(values: list[float], target: float) -> None:
    points = [(i, 1.0 + i, v) for i, v in enumerate(values)]
    rows = track(PREDICTION, "a", points) + track(CEILING, "a", [(60, 30.0, target)])
    found = reach(rows, PREDICTION, CEILING)
    assert found is not None
    first = next((i for i, v in enumerate(values) if v <= target), None)
    if first is None:
        assert found["mean_ratio"] is None
    else:
        earliest = 1.0 + max(first - 1, 0)
        assert 30 / (1.0 + first) - 1e-9 <= found["mean_ratio"] <= 30 / earliest + 1e-9


def test_other_weight_generators_are_shown_but_are_no_controls(tmp_path: Path) -> None:
    config, run_dir = build(tmp_path)
    rows = run_dir.read_table("evaluation/rows.parquet").to_pylist()
    more = [{**r, "method": "1-D UNet"} for r in rows if r["method"] == "ridge"]
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist(rows + more, ROWS))
    report.run(config, run_dir)
    summary = run_dir.read_json("report/summary.json")
    numbers = summary["sets"]["combinations"]
    assert numbers["against"]["1-D UNet"] == numbers["against"]["ridge"]
    assert not any("UNet" in s for s in numbers["sentences"][1:])
    assert all(r["method"] != "1-D UNet" for r in summary["losses"]["lost"])
    assert summary["memory"]["sets"]["combinations"][PREDICTION]["distance"] == 0.25
    page = run_dir.read("report/index.html").decode()
    assert "Copies of training adapters?" in page and "0.750" in page
