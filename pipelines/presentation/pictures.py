"""Which pictures the report shows, and the same grid as one PNG for a README."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from modeling.concepts.planning import Concept
from modeling.images import decode_image
from pipelines.presentation.numbers import WHENS, Numbers, When, scores, step_of
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION, SHUFFLED

T = TypeVar("T")
SOURCE, TRUTH = "source", "ground truth"
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
) -> list[Numbers]:
    """Per shown concept its cells: images (PNG bytes), L1 over all scored images, best or not.

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
                step = step_of(method, when, table, last)
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


def draw_png(rows: Sequence[Numbers], columns: Sequence[tuple[str, str, str, When]]) -> bytes:
    """The PNG; rows as of `grids`, columns as title, note, method, end of the fine-tune."""
    from PIL import Image, ImageDraw, ImageFont

    ink, faint, accent, good = "#0f172a", "#64748b", "#4338ca", "#15803d"
    small, bold = ImageFont.load_default(13), ImageFont.load_default(14)
    width = next((decode_image(d).shape[1] for row in rows for d in row[TRUTH].values()), 96)
    side = -(-96 // width) * width if width < 96 else 96  # whole multiples stay crisp
    gap, head, label, foot = 10, 44, 24, 22
    width = gap + len(columns) * (side + gap)
    height = head + max(len(rows), 1) * (label + side + foot)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (title, note, method, _) in enumerate(columns):
        x = gap + i * (side + gap) + side // 2
        colour = accent if method == PREDICTION else ink
        pen.text((x, 8), title, colour, bold, anchor="ma")
        pen.text((x, 25), note, faint, small, anchor="ma")
    for j, row in enumerate(rows):
        y = head + j * (label + side + foot)
        pen.text((gap, y + 3), f"“{row['concept'].text}”", ink, bold)
        y += label
        for i, (_, _, method, when) in enumerate(columns):
            x = gap + i * (side + gap)
            cell = row["cells"].get(method, {}).get(when)
            if method in (SOURCE, TRUTH):
                images, score = row[method], ""
            elif method == IDENTITY:
                images, score = row[SOURCE], f"L1 {cell['l1']:.3f}" if cell else ""
            else:
                images = cell["images"] if cell else {}
                score = f"L1 {cell['l1']:.3f}" if cell else "not scored"
            if images:
                picture = Image.fromarray(decode_image(next(iter(images.values()))))
                grows = picture.width < side
                how = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
                canvas.paste(picture.resize((side, side), how), (x, y))
            best = bool(cell and cell["best"] and when == "before")
            if best:
                pen.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=good, width=2)
            pen.text(
                (x + side // 2, y + side + 5), score, good if best else faint, small, anchor="ma"
            )
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
