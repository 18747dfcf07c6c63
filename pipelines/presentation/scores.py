"""Scores by method, step and concept, and the paired difference of two methods.

Everything is computed from the rows of stage `evaluate`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from modeling.metrics.distances import paired_bootstrap
from pipelines.presentation.words import FEW
from pipelines.stages.contenders import IDENTITY, REFERENCES

When = Literal["before", "learned", "after"]
WHENS: tuple[When, ...] = ("before", "learned", "after")
Numbers = dict[str, Any]
Scores = dict[tuple[str, int], dict[str, float]]  # (method, step) -> concept_id -> score


def ends(last_step: int, learned: int = 0) -> tuple[tuple[When, int], ...]:
    """Both ends of a fine-tune and their steps, and between them the last of the learned steps;
    one where nothing was fine-tuned."""
    start: tuple[When, int] = ("before", 0)
    between: tuple[tuple[When, int], ...] = (("learned", learned),)
    if not last_step:
        return (start,)
    return (start, *(between if 0 < learned < last_step else ()), ("after", last_step))


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def scores(rows: Iterable[Mapping[str, Any]], value: str) -> Scores:
    """Score per method, step and concept, seeds averaged; missing and non-finite ones left out."""
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if finite(row[value]):
            found[row["method"], row["step"]][row["concept_id"]].append(row[value])
    return {
        key: {concept: math.fsum(v) / len(v) for concept, v in by_concept.items()}
        for key, by_concept in found.items()
    }


def compare(ours: Mapping[str, float], control: Mapping[str, float]) -> Numbers | None:
    """Prediction minus control over the concepts that both have; None if there are none.

    `verdict`: better | worse (the interval excludes zero), undecided, or few (less than `FEW`
    concepts). `lo`, `hi`: 95 % paired bootstrap over concepts, None for one concept.
    """
    both = sorted(ours.keys() & control.keys())
    if not both:
        return None
    deltas = [ours[i] - control[i] for i in both]
    interval = paired_bootstrap(np.array(deltas)) if len(both) > 1 else None
    if interval is None or len(both) < FEW:
        verdict = "few"
    elif interval.hi < 0:
        verdict = "better"
    else:
        verdict = "worse" if interval.lo > 0 else "undecided"
    return {
        "wins": sum(d < 0 for d in deltas),
        "losses": sum(d > 0 for d in deltas),
        "total": len(both),
        "mean": math.fsum(deltas) / len(deltas),
        "lo": interval.lo if interval else None,
        "hi": interval.hi if interval else None,
        "verdict": verdict,
    }


def step_of(method: str, when: When, table: Scores, last: int, learned: int = 0) -> int | None:
    """The step whose score stands for a method before, within or after the fine-tune; None: none.

    "learned": after as many steps as the prediction's learned ones, whatever this method's are.
    Doing nothing scores the same at both; what was trained at length has its own number of steps.
    """
    if when == "learned" and not 0 < learned < last:
        return None
    if method == IDENTITY:
        step = 0
    elif method in REFERENCES:
        step = max((s for m, s in table if m == method), default=0)
    else:
        step = {"before": 0, "learned": learned, "after": last}[when]
    return step if (method, step) in table else None
