"""The report's tables of pictures: a concept's row at both ends of the fine-tune, every method."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.presentation.scores import Numbers, ends
from pipelines.presentation.words import plural, unseen
from pipelines.stages.contenders import CEILING, IDENTITY


def picture_table(held: str, grid: Sequence[Numbers]) -> Numbers:
    """One held-out set's table.

    `methods`: the columns after source and ground truth; `ceiling`: whether the ground-truth
    adapter follows them. `concepts`: text, both ends and cells, as of `report.pictures.grids`.
    """
    title = plural(held)
    title = title[0].upper() + title[1:]
    if not grid:
        return {"title": title, "concepts": []}
    methods = [m for m in grid[0]["cells"] if m not in (IDENTITY, CEILING)]
    return {
        "title": title,
        "unseen": unseen(held),
        "methods": methods,
        "ceiling": CEILING in grid[0]["cells"],
        "concepts": [_concept(g, methods) for g in grid],
    }


def _concept(g: Numbers, methods: Sequence[str]) -> Numbers:
    both = ends(g["last_step"], g["learned"])
    unchanged = g["cells"].get(IDENTITY, {})
    return {
        "text": g["concept"].text,
        "source": g[SOURCE],
        "truth": g[TRUTH],
        "identity": unchanged.get("before"),
        "identity_best": [s for when, s in both if (unchanged.get(when) or {}).get("best")],
        "ceiling": g["cells"].get(CEILING, {}).get("after"),
        "ends": [
            {"step": step, "cells": [(m, g["cells"][m][when]) for m in methods]}
            for when, step in both
        ],
    }


def scored_images(grid: Sequence[Numbers]) -> list[int]:
    """How many images the shown concepts were scored on, sorted."""
    return sorted({n for g in grid for n in g["images"]})


def shown_images(grid: Sequence[Numbers]) -> int:
    """How many of them are shown."""
    return max((len(g[TRUTH]) for g in grid), default=0)
