"""No text of an artifact becomes markup on the report's page, wherever it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from modeling.concepts.table import to_table
from pipelines.report import build as report
from pipelines.report.studies import ShownStudy, studies_section
from pipelines.stages.concepts import load_concepts
from pipelines.stages.evaluation_tables import MEMORY, PICTURES, ROWS
from tests.pipelines.page_reader import Reader
from tests.pipelines.report.hand_made import NASTY, build


def test_every_text_of_a_run_is_escaped(tmp_path: Path) -> None:
    """Concepts, methods, held-out sets, images, errors, versions, devices: all hostile."""
    config, run_dir = build(tmp_path)
    concepts = [
        replace(c, text=NASTY, heldout=NASTY if c.heldout == "atoms" else c.heldout)
        for c in load_concepts(run_dir)
    ]
    run_dir.write_table("concepts.parquet", to_table(concepts))
    tables = {"rows": ROWS, "pictures": PICTURES, "memory": MEMORY}
    for name, schema in tables.items():
        rows = run_dir.read_table(f"evaluation/{name}.parquet").to_pylist()
        for row in rows:
            row["text"] = NASTY
            if row["method"] == "ridge":
                row["method"] = NASTY
            if row.get("heldout") == "atoms":
                row["heldout"] = NASTY
            if "image_id" in row:
                row["image_id"] += NASTY
        run_dir.write_table(f"evaluation/{name}.parquet", pa.Table.from_pylist(rows, schema))
    run_dir.write_json("evaluation/about.json", {"features": NASTY, "training_gap": 0.75})
    marker = {"seconds": 3.5, "commit": NASTY, "versions": {NASTY: NASTY}, "summary": {}}
    run_dir.write_json("stages/concepts.json", marker)
    run_dir.write_table("errors/pairs.parquet", pa.Table.from_pylist([{"reason": NASTY}]))
    config.run_dir = NASTY
    report.run(config, run_dir)
    page = run_dir.read("report/index.html").decode()
    reader = Reader(page)
    assert reader.open == []
    assert "<script" not in page and "script" not in reader.tags
    assert len(reader.ids) == len(set(reader.ids))
    assert NASTY in reader.words  # as it was written: in the table of errors, for one
    assert any(f"concepts of {NASTY} set" in word for word in reader.words)
    assert any(f"KID over {NASTY}." in word for word in reader.words)
    assert any(f"Commit {NASTY} ·" in word for word in reader.words)
    assert any(
        f"run_dir: {NASTY}" in word or f"run_dir: '{NASTY}'" in word for word in reader.words
    )
    assert any(alt == f"ground truth: {NASTY}, one{NASTY}" for alt in reader.alts)


def test_a_study_is_escaped() -> None:
    summary = {
        "axis": NASTY,
        "table": {"heads": [NASTY, "L1"], "rows": [[NASTY, NASTY]]},
        "machine": {"processor": NASTY, "cores": 2, "gpu": ""},
        "trial": "run",
        "seeds": 1,
        "intervals": NASTY,
        "scheduler": "fifo",
        "why": NASTY,
        "paper_note": NASTY,
        "failed": [{"trial": "a", "reason": NASTY}],
        "commit": NASTY,
    }
    section = studies_section([ShownStudy(NASTY, summary, b"png")])
    reader = Reader(section)
    assert reader.open == [] and "script" not in reader.tags
    assert reader.alts == [f"Study {NASTY}: {NASTY}"]
    assert reader.words.count(NASTY) >= 5
    assert studies_section([]) == ""
