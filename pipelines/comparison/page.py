"""The comparison as a section of a page and as a page of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipelines.comparison.figure import curves_png, curves_svg
from pipelines.comparison.numbers import in_order, lines, name_of
from pipelines.comparison.pictures import columns, grid_png, grids
from pipelines.comparison.table import markdown, table_rows
from pipelines.presentation.html import render
from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.presentation.scores import Numbers
from pipelines.runtime.run_dir import RunDir


def write(
    run_dir: RunDir,
    folder: str,
    summary: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
) -> None:
    """index.html, table.md, curves.png and pictures.png in a folder of the run directory."""
    section = comparison_section(summary, pictures)
    page = render("comparison/templates/page.html", summary=summary, section=section)
    run_dir.write(f"{folder}/index.html", page.encode())
    run_dir.write(f"{folder}/table.md", markdown(summary).encode())
    run_dir.write(f"{folder}/curves.png", curves_png(summary))
    grid = grids(pictures, summary["methods"])
    run_dir.write(f"{folder}/pictures.png", grid_png(grid, summary["methods"]))


def comparison_section(summary: Mapping[str, Any], pictures: Iterable[Mapping[str, Any]]) -> Markup:
    """HTML: Table 1, Fig. 4, Fig. 3, and what differs from the paper's."""
    published = summary.get("published")  # none before there were two regimes
    return render(
        "comparison/templates/section.html",
        published=published and table_rows(published, published["table"]["methods"]),
        summary=summary,
        lines=lines(summary),
        score_name=name_of(summary, summary["score"]),
        rows=table_rows(summary, summary["table"]["methods"]),
        curves=curves_svg(summary),
        reach=_reach(summary),
        columns=columns(summary["methods"]),
        concepts=_pictures(grids(pictures, summary["methods"]), summary["methods"]),
        adapting=[
            (held, found["concepts"], table_rows(summary, found["methods"]))
            for held, found in summary["adapting"].items()
        ],
    )


def _reach(summary: Mapping[str, Any]) -> Numbers:
    """How soon the prediction is where others end; `scores`: names of those that any goal has."""
    by_goal = summary["reach"]
    scores = [s for s in ("l1", summary["score"]) if any(found[s] for found in by_goal.values())]
    return {
        "scores": [name_of(summary, s) for s in scores],
        "rows": [
            (goal, [(found[s], 4 if s == "l1" else 2) for s in scores])
            for goal, found in in_order(summary, by_goal)
        ],
    }


def _pictures(grid: Sequence[Numbers], methods: Sequence[str]) -> list[Numbers]:
    """A row each: the concept's text, and per column its method, images and L1 (None: has none)."""
    rows = []
    for row in grid:
        cells = []
        for _, _, method, when in columns(methods):
            if method in (SOURCE, TRUTH):
                cells.append((method, row[method], None))
            else:
                cell = row["cells"][method][when] or {"images": {}, "l1": None}
                cells.append((method, cell["images"], cell["l1"]))
        rows.append({"text": row["concept"].text, "cells": cells})
    return rows
