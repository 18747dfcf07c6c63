"""The report: numbers against ones made by hand, honest sentences, a page that stands alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.report import build as report
from pipelines.report.pictures import MAX_PNG_BYTES
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION
from pipelines.stages.evaluation_tables import PICTURES, ROWS
from tests.pipelines.page_reader import Reader
from tests.pipelines.report.hand_made import LEVELS, NASTY, build


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
    assert summary["adapters"]["failing"] == 1 and "worst:" not in page
    assert summary["errors"] == {"pairs": {"the image is empty": 3}}
    assert "3 rows with errors" in page and "the image is empty" in page
    assert "abc123" in page and "torch 2.15" in page


def test_every_picture_is_shown(made: Any) -> None:
    _, _, _, reader = made
    # source, truth, ceiling once; six methods at two ends; 2 images a cell
    combined, atoms = 3 * 2 * (3 + 6 * 2), 2 * 2 * (3 + 5 * 2)
    assert len(reader.alts) == combined + atoms + 3 * 4  # and four of each in the head
    assert sum(alt.startswith(f"{PREDICTION}, step 4") for alt in reader.alts) == 2 * (3 + 2) + 3


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
