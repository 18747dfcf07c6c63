"""Which pictures the report shows, and the same grid as one PNG for a README."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from modeling.concepts.concept import Concept
from pipelines.presentation.pictures import SOURCE, TRUTH, draw_png
from pipelines.presentation.scores import WHENS, Numbers, When, scores, step_of
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION, SHUFFLED

T = TypeVar("T")
MAX_PNG_BYTES = 300_000


def chosen(concepts: Sequence[Concept], scored: Iterable[str], number: int) -> list[Concept]:
    """`number` concepts of each held-out set, evenly in the order of the plan; scores play no part.

    scored: concept_ids that have pictures; others cannot be shown.
    """
    scored = set(scored)
    sets: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        if concept.concept_id in scored:
            sets[concept.heldout].append(concept)
    out = []
    for members in sets.values():
        out += _evenly(members, number)
    return out


def _evenly(items: Sequence[T], number: int) -> list[T]:
    """At most `number` items, the first and the last among them, evenly between."""
    n = min(number, len(items))
    return [items[round(i * (len(items) - 1) / max(n - 1, 1))] for i in range(n)]


def grids(
    rows: Sequence[Mapping[str, Any]],
    pictures: Iterable[Mapping[str, Any]],
    shown: Sequence[Concept],
    methods: Sequence[str],
    learned: int = 0,
    pairs: int = 0,
) -> list[Numbers]:
    """Per shown concept its cells: images (PNG bytes), L1 over all scored images, best or not.

    learned, pairs: learned steps of the prediction's fine-tune, and how many pairs each sees.

    `cells[method][when]` is None where nothing was scored; `best` marks the lowest L1 at that end
    of the fine-tune among prediction, controls and identity (not the ground-truth adapter).
    """
    images: dict[tuple[str, str, int], dict[str, bytes]] = defaultdict(dict)
    for p in pictures:
        images[p["concept_id"], p["method"], p["step"]].setdefault(p["image_id"], p["image"])
    out = []
    for concept in shown:
        mine = [r for r in rows if r["concept_id"] == concept.concept_id]
        table = scores(mine, "l1")
        last = max((s for m, s in table if m == PREDICTION), default=0)
        cells: dict[str, dict[str, Numbers | None]] = defaultdict(dict)
        for method in methods:
            for when in WHENS:
                step = step_of(method, when, table, last, learned)
                cells[method][when] = None
                if step is not None:
                    cells[method][when] = {
                        "step": step,
                        "l1": table[method, step][concept.concept_id],
                        "images": images.get((concept.concept_id, method, step), {}),
                        "best": False,
                    }
        for when in WHENS:
            _mark_best([c[when] for m, c in cells.items() if m != CEILING])
        out.append(
            {
                "concept": concept,
                "last_step": last,
                "learned": learned,
                "pairs": pairs,
                "images": sorted({r["n"] for r in mine}),
                SOURCE: images.get((concept.concept_id, SOURCE, 0), {}),
                TRUTH: images.get((concept.concept_id, TRUTH, 0), {}),
                "cells": cells,
            }
        )
    return out


def _mark_best(cells: Iterable[Numbers | None]) -> None:
    there = [c for c in cells if c]
    lowest = min((c["l1"] for c in there), default=0.0)
    for cell in there:
        cell["best"] = cell["l1"] == lowest


def grid_png(grid: Sequence[Numbers], methods: Sequence[str]) -> bytes:
    """The shown concepts, one image each, as one PNG of at most 300 KB (fewer rows if need be)."""
    controls = [m for m in methods if m not in (PREDICTION, IDENTITY, CEILING, SHUFFLED)]
    last = max((g["last_step"] for g in grid), default=0)
    columns: list[tuple[str, str, str, When]] = [
        ("source", "", IDENTITY, "before"),
        ("ground truth", "", TRUTH, "before"),
        ("PREDICTION", "step 0", PREDICTION, "before"),
    ]
    if any(g["cells"][PREDICTION]["learned"] for g in grid):
        columns.append(("PREDICTION", f"{grid[0]['learned']} learned", PREDICTION, "learned"))
    if last:
        columns.append(("PREDICTION", f"step {last}", PREDICTION, "after"))
    columns += [(m, "step 0", m, "before") for m in controls]
    if CEILING in methods:
        columns.append(("trained on", "ground truth", CEILING, "after"))
    rows = list(grid)
    while True:
        data = draw_png(rows, columns)
        if len(data) <= MAX_PNG_BYTES or len(rows) <= 1:
            return data
        rows = _evenly(rows, len(rows) * 3 // 4)
