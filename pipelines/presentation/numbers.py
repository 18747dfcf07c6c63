"""What the pages say of each held-out set: every method's means, and the prediction against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.presentation.reach import reach
from pipelines.presentation.scores import WHENS, Numbers, Scores, compare, mean, scores, step_of
from pipelines.presentation.sentences import sentences
from pipelines.presentation.words import HELD_OUT
from pipelines.stages.contenders import GOALS, PREDICTION


def summarise(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], learned: int = 0
) -> dict[str, Numbers]:
    """Per held-out set: its counts, every method's means and curve, the prediction against each.

    methods: those to report, in order; one without rows is kept, with None for its scores.
    learned: steps of the prediction's fine-tune that are learned ones.
    """
    present = {r["heldout"] for r in rows}
    order = [*(h for h in HELD_OUT if h in present), *sorted(present - HELD_OUT.keys())]
    return {
        h: _summarise_set([r for r in rows if r["heldout"] == h], methods, h, learned)
        for h in order
    }


def _summarise_set(
    rows: list[Mapping[str, Any]], methods: Sequence[str], heldout: str, learned: int
) -> Numbers:
    tables = {value: scores(rows, value) for value in ("l1", "kid", "fd", "seconds")}
    table = tables["l1"]
    last = max((s for m, s in table if m == PREDICTION), default=0)
    out: Numbers = {
        "concepts": len({r["concept_id"] for r in rows}),
        "seeds": len({r["seed"] for r in rows}),
        "images": sorted({r["n"] for r in rows}),
        "last_step": last,
        "learned": learned,
        "methods": {},
        "against": {},
    }
    steps: dict[str, dict[str, int | None]] = {
        m: {w: step_of(m, w, table, last, learned) for w in WHENS} for m in methods
    }
    for method in methods:
        out["methods"][method] = {
            **{w: _end(tables, method, step) for w, step in steps[method].items()},
            "curve": [
                {"step": step, "l1": mean(table[m, step].values())}
                for m, step in sorted(table)
                if m == method
            ],
        }
        if method != PREDICTION:
            out["against"][method] = {
                w: _paired(table, steps[PREDICTION][w], method, steps[method][w]) for w in WHENS
            }
    out["reach"] = {
        goal: {m: reach(rows, m, goal) for m in methods if m not in GOALS}
        for goal in GOALS
        if goal in methods
    }
    out["sentences"] = sentences(heldout, out)
    return out


def _end(tables: Mapping[str, Scores], method: str, step: int | None) -> Numbers | None:
    if step is None:
        return None
    values = {value: mean(t.get((method, step), {}).values()) for value, t in tables.items()}
    return {**values, "step": step, "concepts": len(tables["l1"][method, step])}


def _paired(table: Scores, ours: int | None, method: str, theirs: int | None) -> Numbers | None:
    if ours is None or theirs is None:
        return None
    return compare(table[PREDICTION, ours], table[method, theirs])
