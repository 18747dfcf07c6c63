"""The numbers behind the report: means, paired differences and the sentences made from them.

Everything is computed from the rows of stage `evaluate`. A sentence never claims more than its
interval: a difference whose 95 % interval holds zero is called no clear difference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from modeling.metrics.distances import paired_bootstrap
from pipelines.stages.contenders import (
    CEILING,
    GOALS,
    IDENTITY,
    PREDICTION,
    REFERENCES,
    SHUFFLED,
    is_generator,
)

FEW = 5  # below this many concepts nothing is called better or worse

# how a comparison is put into words; the last three where there are too few concepts
WORDS = {
    "better": "beats",
    "worse": "loses to",
    "undecided": "shows no clear difference to",
    "ahead": "is ahead of",
    "behind": "is behind",
    "equal": "is equal to",
}

# held-out set -> what one of its concepts is called, and what was unseen
HELD_OUT = {
    "combinations": (
        "unseen combination",
        "training saw every part of them, never these parts together",
    ),
    "atoms": (
        "unseen single concept",
        "training saw others of their kind, never these",
    ),
    "families": (
        "unseen-family concept",
        "training saw no concept of their families",
    ),
}

When = Literal["before", "after"]
WHENS: tuple[When, ...] = ("before", "after")
Numbers = dict[str, Any]
Scores = dict[tuple[str, int], dict[str, float]]  # (method, step) -> concept_id -> score


def plural(heldout: str) -> str:
    """What the concepts of a held-out set are called: 'unseen combinations'."""
    return (
        f"{HELD_OUT[heldout][0]}s" if heldout in HELD_OUT else f"concepts of {heldout or 'no'} set"
    )


def count(n: int, heldout: str) -> str:
    """How many concepts of a held-out set, in words: '3 unseen combinations'."""
    return f"{n} {HELD_OUT[heldout][0] if n == 1 and heldout in HELD_OUT else plural(heldout)}"


def duration(seconds: float) -> str:
    """4 ms, 0.24 s, 12 s, 3 min 20 s."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


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


def step_of(method: str, when: When, table: Scores, last: int) -> int | None:
    """The step whose score stands for a method before or after the fine-tune; None: no score.

    Doing nothing scores the same at both; what was trained at length has its own number of steps.
    """
    if method == IDENTITY:
        step = 0
    elif method in REFERENCES:
        step = max((s for m, s in table if m == method), default=0)
    else:
        step = 0 if when == "before" else last
    return step if (method, step) in table else None


def summarise(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Numbers]:
    """Per held-out set: its counts, every method's means and curve, the prediction against each.

    methods: those to report, in order; one without rows is kept, with None for its scores.
    """
    present = {r["heldout"] for r in rows}
    order = [*(h for h in HELD_OUT if h in present), *sorted(present - HELD_OUT.keys())]
    return {h: _summarise_set([r for r in rows if r["heldout"] == h], methods, h) for h in order}


def _summarise_set(rows: list[Mapping[str, Any]], methods: Sequence[str], heldout: str) -> Numbers:
    tables = {value: scores(rows, value) for value in ("l1", "kid", "fd", "seconds")}
    table = tables["l1"]
    last = max((s for m, s in table if m == PREDICTION), default=0)
    out: Numbers = {
        "concepts": len({r["concept_id"] for r in rows}),
        "seeds": len({r["seed"] for r in rows}),
        "images": sorted({r["n"] for r in rows}),
        "last_step": last,
        "methods": {},
        "against": {},
    }
    ends: dict[str, dict[str, int | None]] = {
        m: {w: step_of(m, w, table, last) for w in WHENS} for m in methods
    }
    for method in methods:
        out["methods"][method] = {
            **{w: _end(tables, method, step) for w, step in ends[method].items()},
            "curve": [
                {"step": step, "l1": mean(table[m, step].values())}
                for m, step in sorted(table)
                if m == method
            ],
        }
        if method != PREDICTION:
            out["against"][method] = {
                w: _paired(table, ends[PREDICTION][w], method, ends[method][w])
                for w in ("before", "after")
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


def sentences(heldout: str, numbers: Numbers) -> list[str]:
    """What the numbers of one held-out set say, losses included, in two or three sentences."""
    methods, against, last = numbers["methods"], numbers["against"], numbers["last_step"]
    ours = methods.get(PREDICTION, {}).get("before")
    if ours is None:
        return [f"For {count(numbers['concepts'], heldout)} no predicted adapter was scored."]
    others = [
        f"{name} {m['before']['l1']:.3f}"
        for name, m in methods.items()
        if m["before"] and name not in (PREDICTION, IDENTITY, SHUFFLED, *REFERENCES)
    ]
    start = f"For {count(ours['concepts'], heldout)} the predicted adapter, made in"
    start += f" {duration(ours['seconds'])}, starts at L1 {ours['l1']:.3f}"
    start += f" ({', '.join(others)})." if others else "."
    out = [start]
    verdict = verdicts({name: a["before"] for name, a in against.items()})
    if verdict:
        out.append(f"Before any fine-tuning it {verdict}.")
    tuned = methods[PREDICTION]["after"]
    if last > 0 and tuned is not None:
        steps = f"After {last} fine-tuning step{'s' if last > 1 else ''}"
        end = f"{steps} ({duration(tuned['seconds'])}) it stands at L1 {tuned['l1']:.3f}"
        verdict = verdicts({name: a["after"] for name, a in against.items()})
        out.append(end + (f" and {verdict}" if verdict else "") + ".")
    ceiling = methods.get(CEILING, {}).get("after")
    if ceiling is not None:
        out.append(
            f"An adapter trained from zero on the true edits reaches L1 {ceiling['l1']:.3f}"
            f" in {ceiling['step']} steps ({duration(ceiling['seconds'])})."
        )
    return out


def verdicts(comparisons: Mapping[str, Numbers | None]) -> str:
    """'beats A and B (12 of 12 concepts each); it loses to C (2 of 12)'."""
    groups: dict[str, list[tuple[str, str]]] = {key: [] for key in WORDS}
    for method, c in comparisons.items():
        if c is None or method in REFERENCES or is_generator(method):
            continue
        key = c["verdict"]
        if key == "few":
            key = "ahead" if c["mean"] < 0 else "behind" if c["mean"] > 0 else "equal"
        groups[key].append((method, f"{c['wins']} of {c['total']}"))
    parts = [f"{WORDS[key]} {_listed(members)}" for key, members in groups.items() if members]
    if groups["ahead"] or groups["behind"] or groups["equal"]:
        parts[-1] += f"; with fewer than {FEW} concepts that decides nothing"
    return "; it ".join(parts)


def _listed(members: Sequence[tuple[str, str]]) -> str:
    """Names with their wins, those with equal wins together."""
    unit = " concept" if all(wins.endswith(" of 1") for _, wins in members) else " concepts"
    by_wins: dict[str, list[str]] = defaultdict(list)
    for method, wins in members:
        by_wins[wins].append(method)
    return _join(
        [
            f"{_join(names)} ({wins}{unit if i == 0 else ''}{' each' if names[1:] else ''})"
            for i, (wins, names) in enumerate(by_wins.items())
        ]
    )


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


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
    return {
        "total": len(keys),
        "reached": sum(r > 0 for r in ratios),
        "ratio": float(np.median(ratios)),
        "mean_ratio": _crossing(ours, float(target), float(seconds)),
        "seconds": float(seconds),
        "l1": float(target),
    }


def _crossing(curve: np.ndarray, target: float, seconds: float) -> float | None:
    """`seconds` ÷ the time at which a curve [points, (seconds, L1)] first falls to the target."""
    for i, (at, value) in enumerate(curve):
        if value <= target:
            if i and value < curve[i - 1, 1]:
                before, was = curve[i - 1]
                at = before + (at - before) * (was - target) / (was - value)
            return float(seconds / at) if at > 0 else math.inf
    return None


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
        whens: tuple[When, ...] = ("before", "after") if last else ("before",)
        for when in whens:
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
