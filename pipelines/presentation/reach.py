"""How soon one method is where another ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.presentation.scores import Numbers, finite


def reach(rows: Sequence[Mapping[str, Any]], method: str, reference: str) -> Numbers | None:
    """How soon a method's fine-tune reaches what a reference reaches at its full budget.

    Over the (concept, seed) that both have. `reached`: how many do at one of the scored steps;
    `ratio`: median of reference's seconds ÷ method's seconds to get there, where not getting there
    counts as 0; `mean_ratio`: the same for the mean curves, interpolated, None if not reached.
    None if there is nothing to compare.
    """
    curves: dict[str, dict[tuple[str, int], list[tuple[float, float]]]] = {
        method: {},
        reference: {},
    }
    for row in sorted(rows, key=lambda r: r["step"]):
        if row["method"] in curves and finite(row["l1"]):
            key = (row["concept_id"], row["seed"])
            curves[row["method"]].setdefault(key, []).append((row["seconds"], row["l1"]))
    full = max((len(c) for c in curves[method].values()), default=0)
    keys = sorted(k for k, c in curves[method].items() if len(c) == full and k in curves[reference])
    if not keys:
        return None
    ratios = []
    for key in keys:
        seconds, target = curves[reference][key][-1]
        first = next((s for s, l1 in curves[method][key] if l1 <= target), None)
        ratios.append(seconds / first if first else 0.0)
    ours = np.mean([curves[method][k] for k in keys], axis=0)
    seconds, target = np.mean([curves[reference][k][-1] for k in keys], axis=0)
    at = crossing(ours, float(target))
    return {
        "total": len(keys),
        "reached": sum(r > 0 for r in ratios),
        "ratio": float(np.median(ratios)),
        "mean_ratio": None if at is None else float(seconds / at) if at > 0 else math.inf,
        "seconds": float(seconds),
        "l1": float(target),
    }


def crossing(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where a curve of (seconds, score) first falls to a target, between its points if need be."""
    for i, (at, value) in enumerate(points):
        if value <= target:
            if i and value < points[i - 1][1]:
                before, was = points[i - 1]
                at = before + (at - before) * (was - target) / (was - value)
            return at
    return None
