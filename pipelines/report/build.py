"""Stage `report`: one self-contained page from what the other stages left in the run directory.

Writes `report/index.html`, `report/summary.json` (the numbers behind it) and `report/pictures.png`
(the main grid, for a README). Nothing is computed here that an artifact does not support.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.comparison.page import comparison_section
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.report.curves import panel
from pipelines.report.page import render
from pipelines.report.pictures import chosen, grid_png, grids
from pipelines.report.studies import studies, studies_section
from pipelines.report.summary import summary
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.stage_table import StageError
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import (
    CONTINUED,
    SCRATCH,
    UNREFINED,
    WEIGHTS_ONLY,
    ZERO_REFINED,
)
from pipelines.stages.evaluation_tables import FOLDER as EVALUATED
from pipelines.stages.evaluation_tables import load_rows

FOLDER = "report"
UNPICTURED = (CONTINUED, SCRATCH, UNREFINED, ZERO_REFINED)


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """Write the report; StageError if nothing was evaluated, ArtifactError if a file is missing."""
    rows = load_rows(run_dir)
    if not rows:
        raise StageError("report: evaluation/rows.parquet holds no rows; give redo=[evaluate]")
    pictures = run_dir.read_table(f"{EVALUATED}/pictures.parquet").to_pylist()
    concepts = [c for c in load_concepts(run_dir) if c.split == config.adapt.split]
    numbers = summary(config, run_dir, rows, concepts)
    methods, sets = numbers["methods"], numbers["sets"]
    shown = chosen(concepts, {p["concept_id"] for p in pictures}, config.report.concepts)
    pictured = [m for m in methods if m not in UNPICTURED and not m.endswith(WEIGHTS_ONLY)]
    a = config.adapt
    grid = grids(rows, pictures, shown, pictured, a.learned_steps, a.learned_pairs)
    grid.sort(key=lambda g: list(sets).index(g["concept"].heldout))
    curves = {
        held: panel(f"curve-{place}", found["methods"], methods)
        for place, (held, found) in enumerate(sets.items())
    }
    page = render(numbers, grid, curves, config_tree.to_yaml(config), _further(run_dir))
    run_dir.write_json(f"{FOLDER}/summary.json", numbers)
    run_dir.write(f"{FOLDER}/pictures.png", grid_png(grid, pictured))
    run_dir.write(f"{FOLDER}/index.html", page.encode())
    sentences = {held: found["sentences"] for held, found in sets.items()}
    for lines in sentences.values():
        log("report: " + " ".join(lines))
    losses = numbers["losses"]
    return {
        "sentences": sentences,
        "lost": len(losses["lost"]),
        "compared": losses["compared"],
    }


def _further(run_dir: RunDir) -> Markup:
    """Sections of what a run need not have: the comparison, and studies."""
    section = studies_section(studies(run_dir))
    if finished(run_dir, "compare") is None:
        return section
    found = run_dir.read_json("comparison/summary.json")
    pictures = run_dir.read_table("comparison/pictures.parquet").to_pylist()
    return comparison_section(found, pictures) + section
