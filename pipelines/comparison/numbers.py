"""Table 1, Fig. 4 and what they say, from the rows of stage `compare`.

Means are over concepts, seeds averaged first; intervals are 95 % bootstraps over concepts. Methods
stand in one table only over the concepts that all of them have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modeling.metrics.distances import paired_bootstrap
from pipelines.comparison.methods import AS_LONG
from pipelines.config.sections.scoring import BASELINES
from pipelines.presentation.reach import crossing
from pipelines.presentation.scores import Numbers, finite, mean
from pipelines.presentation.scores import compare as paired
from pipelines.presentation.sentences import verdicts
from pipelines.presentation.words import duration, fixed
from pipelines.stages.contenders import IDENTITY, PREDICTION

SCORES = ("fd", "kid", "l1")
Row = Mapping[str, Any]


def by_concept(rows: Iterable[Row], value: str) -> dict[str, float]:
    """concept_id → score, seeds averaged; missing and non-finite ones left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if finite(row[value]):
            found[row["concept_id"]].append(row[value])
    return {i: math.fsum(v) / len(v) for i, v in found.items()}


def summarise(rows: Sequence[Row], methods: Sequence[str]) -> Numbers:
    """`table`: over the concepts of all methods; `adapting`: over all concepts, without the methods
    from scratch; `curves`; `reach`: how soon the prediction is where others end."""
    present = [m for m in (*methods, IDENTITY) if any(r["method"] == m for r in rows)]
    last = {m: max(r["epoch"] for r in rows if r["method"] == m) for m in present}
    ends = {m: [r for r in rows if r["method"] == m and r["epoch"] == last[m]] for m in present}
    starts = {m: [r for r in rows if r["method"] == m and r["epoch"] == 0] for m in present}
    adapting = [m for m in present if m not in BASELINES]
    curves = {m: curve([r for r in rows if r["method"] == m]) for m in present}
    out: Numbers = {
        "images": sorted({r["n"] for r in rows}),
        "features": next((r["features"] for r in rows if r["features"]), ""),
        "frechet": next((r["distance"] for r in rows), ""),
        "size": next((r["size"] for r in rows), 0),
        "seeds": len({r["seed"] for r in rows}),
        "methods": present,
        "table": table(ends, starts, present),
        "adapting": {
            held: table(_of_set(ends, held), _of_set(starts, held), adapting)
            for held in dict.fromkeys(r["heldout"] for r in rows)
        },
        "curves": curves,
        "reach": {},
    }
    score = "fd" if any(p["fd"] is not None for c in curves.values() for p in c) else "kid"
    out["score"] = score
    for goal in present:
        if goal not in (PREDICTION, IDENTITY):
            out["reach"][goal] = {
                s: reach(rows, PREDICTION, goal, s) for s in SCORES if s in ("l1", score)
            }
    return out


def _of_set(rows: Mapping[str, Sequence[Row]], held: str) -> dict[str, list[Row]]:
    return {m: [r for r in mine if r["heldout"] == held] for m, mine in rows.items()}


def table(
    ends: Mapping[str, Sequence[Row]], starts: Mapping[str, Sequence[Row]], methods: Sequence[str]
) -> Numbers:
    """A row per method at its last epoch, over the concepts that every method has."""
    common = set.intersection(*({r["concept_id"] for r in ends[m]} for m in methods))
    lines: Numbers = {}
    for method in methods:
        mine = [r for r in ends[method] if r["concept_id"] in common]
        if not mine:
            continue
        first = [r for r in starts[method] if r["concept_id"] in common]
        line: Numbers = {k: mine[0][k] for k in ("epochs", "trainable", "total", "image_flops")}
        for key in ("seconds", "training_flops"):
            line[key] = mean(r[key] for r in mine)
        for score in SCORES:
            values = by_concept(mine, score)
            line[score] = _interval(values)
            line[f"{score}_start"] = mean(by_concept(first, score).values()) if first else None
            if method != PREDICTION and PREDICTION in methods:
                ours = by_concept([r for r in ends[PREDICTION] if r["concept_id"] in common], score)
                line[f"{score}_against"] = paired(ours, values)
        lines[method] = line
    return {"concepts": len(common), "methods": lines}


def _interval(values: Mapping[str, float]) -> Numbers | None:
    """Mean over concepts with its 95 % interval; None without a score."""
    if not values:
        return None
    scores = list(values.values())
    if len(scores) < 2:
        return {"mean": scores[0], "lo": None, "hi": None}
    found = paired_bootstrap(np.array(scores))
    return {"mean": found.mean, "lo": found.lo, "hi": found.hi}


def curve(rows: Sequence[Row]) -> list[Numbers]:
    """Mean scores of a method by epoch, over the concepts (first seed) that have all its epochs."""
    seed = min((r["seed"] for r in rows), default=0)
    mine = [r for r in rows if r["seed"] == seed]
    epochs = sorted({r["epoch"] for r in mine})
    held = [{r["concept_id"] for r in mine if r["epoch"] == e} for e in epochs]
    common = set.intersection(*held) if held else set()
    out = []
    for epoch in epochs:
        there = [r for r in mine if r["epoch"] == epoch and r["concept_id"] in common]
        point: Numbers = {"epoch": epoch, "concepts": len(common)}
        for key in (*SCORES, "seconds"):
            point[key] = mean(r[key] for r in there if finite(r[key]))
        out.append(point)
    return out


def reach(rows: Sequence[Row], method: str, goal: str, score: str) -> Numbers | None:
    """How soon a method's mean curve falls to where the goal's ends, over the concepts of both.

    `sooner`: the goal's seconds ÷ the method's to get there, None if it never does; `reached`: on
    how many of the concepts it does at one of its scored epochs. None if there is no curve.
    """
    seed = min((r["seed"] for r in rows), default=0)
    curves: dict[str, dict[str, dict[int, Row]]] = {method: {}, goal: {}}
    for row in rows:
        if row["method"] in curves and row["seed"] == seed and finite(row[score]):
            curves[row["method"]].setdefault(row["concept_id"], {})[row["epoch"]] = row
    full = max((len(c) for c in curves[method].values()), default=0)
    last = max((max(c) for c in curves[goal].values()), default=0)
    both = sorted(
        i for i, c in curves[method].items() if len(c) == full and last in curves[goal].get(i, {})
    )
    if not both or full < 2:
        return None
    epochs = sorted(curves[method][both[0]])
    targets = {i: curves[goal][i][last][score] for i in both}
    target = math.fsum(targets.values()) / len(both)
    seconds = math.fsum(curves[goal][i][last]["seconds"] for i in both) / len(both)
    points = [
        (
            math.fsum(curves[method][i][e]["seconds"] for i in both) / len(both),
            math.fsum(curves[method][i][e][score] for i in both) / len(both),
        )
        for e in epochs
    ]
    at = crossing(points, target)
    return {
        "concepts": len(both),
        "reached": sum(
            any(curves[method][i][e][score] <= targets[i] for e in epochs) for i in both
        ),
        "score": target,
        "seconds": seconds,
        "at": at,
        "sooner": seconds / at if at else None,
    }


def name_of(summary: Mapping[str, Any], score: str) -> str:
    """What a score is called: FID only where the features are Inception's."""
    return str({"fd": summary["frechet"], "kid": "KID", "l1": "L1"}[score])


def in_order(summary: Mapping[str, Any], by_method: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What belongs to each method, in the comparison's order: JSON on disk sorts keys."""
    return [(m, by_method[m]) for m in summary["methods"] if m in by_method]


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The comparison in sentences, losses included."""
    table = summary["table"]
    ours = table["methods"].get(PREDICTION)
    score = summary["score"]
    if ours is None or not ours[score]:
        return ["No prediction was compared."]
    name = name_of(summary, score)
    out = [
        f"On {table['concepts']} held-out concepts the prediction ends at {name}"
        f" {fixed(ours[score]['mean'], 2)} in {duration(ours['seconds'])}."
    ]
    ours_too = (PREDICTION, AS_LONG, IDENTITY)
    others = {m: line for m, line in in_order(summary, table["methods"]) if m not in ours_too}
    said = verdicts({m: line[f"{score}_against"] for m, line in others.items()})
    if said:
        out.append(f"There it {said}.")
    longer = [
        f"{m} takes {line['seconds'] / ours['seconds']:.1f} times as long"
        for m, line in others.items()
        if ours["seconds"] and line["seconds"] > 1.5 * ours["seconds"]
    ]
    if longer:
        out.append(f"{', '.join(longer)}.")
    return out
