"""Fig. 3: which pictures the comparison shows, and the same grid as one PNG for a README."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from pipelines.comparison.methods import E2GAN
from pipelines.config.sections.scoring import BASELINES
from pipelines.presentation.pictures import SOURCE, TRUTH, draw_png
from pipelines.presentation.scores import Numbers, When
from pipelines.stages.contenders import IDENTITY, PREDICTION

CONCEPTS_SHOWN = 8


def grids(pictures: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> list[Numbers]:
    """Of the first concepts that have all methods, the pictures at both ends, as of
    `report.pictures.grids`."""
    images: dict[str, dict[tuple[str, int], dict[str, bytes]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    texts, scores = {}, {}
    for p in pictures:
        scores[p["concept_id"], p["method"], p["epoch"]] = p["l1"]
        images[p["concept_id"]][p["method"], p["epoch"]].setdefault(p["image_id"], p["image"])
        texts[p["concept_id"]] = p["text"]
    wanted = {m for m in methods if m != IDENTITY}
    out = []
    for concept_id, found in images.items():
        if not wanted <= {m for m, _ in found}:
            continue
        cells: dict[str, dict[str, Numbers | None]] = {}
        for method in wanted:
            epochs = sorted(e for m, e in found if m == method)
            ends = {"before": 0 if epochs[0] == 0 else None, "after": epochs[-1]}
            cells[method] = {
                when: None
                if epoch is None
                else {
                    "images": found[method, epoch],
                    "l1": scores[concept_id, method, epoch],
                    "best": False,
                }
                for when, epoch in ends.items()
            }
        out.append(
            {
                "concept": SimpleNamespace(text=texts[concept_id]),
                SOURCE: found[SOURCE, 0],
                TRUTH: found[TRUTH, 0],
                "cells": cells,
            }
        )
    return out[:CONCEPTS_SHOWN]


def columns(methods: Sequence[str]) -> list[tuple[str, str, str, When]]:
    """Title, note, method, end: the paper's four methods and ours before the fine-tune."""
    columns: list[tuple[str, str, str, When]] = [
        ("source", "", SOURCE, "before"),
        ("editor", "the true edit", TRUTH, "before"),
    ]
    if PREDICTION in methods:
        columns.append(("PREDICTION", "epoch 0", PREDICTION, "before"))
        columns.append(("PREDICTION", "fine-tuned", PREDICTION, "after"))
    # short enough for a column; Pillow's font has no ²
    named = {"pix2pix-zero-distilled": "p2p-zero-dist.", E2GAN: "E2GAN"}
    columns += [
        (named.get(m, m), "fully trained", m, "after") for m in (E2GAN, *BASELINES) if m in methods
    ]
    return columns


def grid_png(grid: Sequence[Numbers], methods: Sequence[str]) -> bytes:
    """Fig. 3 as one PNG."""
    return draw_png(grid, columns(methods))
