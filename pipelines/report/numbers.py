"""What only the report counts: single losses, and copies of training adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.presentation.scores import Numbers, ends, mean, scores, step_of
from pipelines.stages.contenders import PREDICTION, REFERENCES, is_generator


def memory(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Numbers]]:
    """Per held-out set and weight generator: means of distance to the nearest training adapter.

    `distance` in normalised weights, `pictures` and `nearest_l1` as in evaluation/memory.parquet.
    """
    out: dict[str, dict[str, Numbers]] = defaultdict(dict)
    for held in dict.fromkeys(r["heldout"] for r in rows):
        for method in dict.fromkeys(r["method"] for r in rows):
            mine = [r for r in rows if (r["heldout"], r["method"]) == (held, method)]
            if mine:
                keys = ("distance", "pictures", "nearest_l1")
                out[held][method] = {k: mean(r[k] for r in mine) for k in keys}
    return dict(out)


def losses(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> tuple[list[Numbers], int]:
    """Single comparisons (concept, control, end) that the prediction loses, largest loss first.

    Returns them and the number of all comparisons made. What was trained at length, and other
    weight generators, are no controls.
    """
    out: list[Numbers] = []
    total = 0
    about = {r["concept_id"]: r for r in rows}
    for heldout in sorted({r["heldout"] for r in rows}):
        table = scores([r for r in rows if r["heldout"] == heldout], "l1")
        last = max((s for m, s in table if m == PREDICTION), default=0)
        for when, _ in ends(last):
            ours = step_of(PREDICTION, when, table, last)
            for method in methods:
                theirs = step_of(method, when, table, last)
                if method in REFERENCES or is_generator(method) or ours is None or theirs is None:
                    continue
                mine, control = table[PREDICTION, ours], table[method, theirs]
                for concept in mine.keys() & control.keys():
                    total += 1
                    if mine[concept] > control[concept]:
                        row = {"concept_id": concept, "text": about[concept]["text"]}
                        row |= {"heldout": heldout, "method": method, "step": ours}
                        row |= {"prediction": mine[concept], "control": control[concept]}
                        out.append({**row, "difference": mine[concept] - control[concept]})
    out.sort(key=lambda r: (-r["difference"], r["concept_id"], r["method"], r["step"]))
    return out, total
