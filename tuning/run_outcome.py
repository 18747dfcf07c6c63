"""What trials of the kind `run` show: L1 on validation concepts, before and after fine-tuning."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.presentation.curves import COLOURS
from pipelines.presentation.scores import Numbers, compare
from pipelines.presentation.words import plural
from pipelines.stages.contenders import CEILING, PREDICTION
from tuning.intervals import check_equal, over_concepts, text
from tuning.panels import panels, save
from tuning.study import StudyError

SHOWN = (PREDICTION, "ridge", "nearest text", "mean adapter", "zero LoRA")
INTERVALS = "bootstrap over concepts, 95 %; seeds are averaged first"
Scores = dict[str, dict[str, dict[str, float]]]
"""Held-out set → before or after the fine-tune → concept → the prediction's L1."""


def compared(
    points: Mapping[str, Numbers], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Numbers]:
    """The points with intervals and differences to the first variant, concept by concept.

    rows: of all trials, each with `variant`. Raises StudyError where concepts, seeds or numbers
    of images differ.
    """
    check_equal(rows)
    of = {v: _scores([r for r in rows if r["variant"] == v]) for v in points}
    seeds = {v: {r["seed"] for r in rows if r["variant"] == v} for v in points}
    first = next(iter(points))
    out = {}
    for variant, point in points.items():
        mine = of[variant]
        same = {h: s["before"].keys() for h, s in mine.items()}
        if same != {h: s["before"].keys() for h, s in of[first].items()}:
            raise StudyError(
                f"{variant!r} and {first!r} are scored on other concepts: they must not be compared"
            )
        if seeds[variant] != seeds[first]:
            raise StudyError(
                f"{variant!r} has {len(seeds[variant])} seeds and {first!r} {len(seeds[first])}:"
                " they must not be compared"
            )
        out[variant] = {
            **point,
            "intervals": {
                h: {w: over_concepts(list(s[w].values())) for w in s} for h, s in mine.items()
            },
            "against_first": {
                h: {w: compare(s[w], of[first][h][w]) for w in s} for h, s in mine.items()
            },
        }
    return out


def _scores(rows: Sequence[Mapping[str, Any]]) -> Scores:
    ours = [r for r in rows if r["method"] == PREDICTION]
    last = max((r["step"] for r in ours), default=0)
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: {"before": defaultdict(list), "after": defaultdict(list)}
    )
    for row in ours:
        for when, step in (("before", 0), ("after", last)):
            if row["step"] == step:
                found[row["heldout"]][when][row["concept_id"]].append(row["l1"])
    return {
        h: {w: {i: sum(v) / len(v) for i, v in c.items()} for w, c in by_when.items()}
        for h, by_when in found.items()
    }


def table(axis: str, points: Mapping[str, Numbers]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: L1 of the prediction before → after in each held-out set.

    A star: the paired difference to the first variant is clear (its interval excludes zero).
    """
    held = list(next(iter(points.values()))["sets"])
    rows = []
    for name, point in points.items():
        rows.append([name, *(_cell(point, h) for h in held)])
    return [axis, *(plural(h) for h in held)], rows


def _cell(point: Numbers, held: str) -> str:
    parts = []
    for when in ("before", "after"):
        intervals = point.get("intervals")  # studies of older versions have none
        if not intervals:
            parts.append(f"{point['sets'][held]['methods'][PREDICTION][when]['l1']:.4f}")
            continue
        difference = point["against_first"][held][when]
        clear = difference and difference["verdict"] in ("better", "worse")
        parts.append(text(intervals[held][when], 4) + ("*" if clear else ""))
    return " → ".join(parts)


def figure(axis: str, points: Mapping[str, Numbers], path: Path) -> None:
    """One panel per held-out set: L1 at step 0 and after the fine-tune.

    Over a logarithmic axis of the variants' numbers, or one place per variant if they are words.
    """
    from matplotlib.ticker import NullLocator

    first = next(iter(points.values()))
    numeric = all(name.isdigit() and int(name) > 0 for name in points)
    places = [int(n) for n in points] if numeric else list(range(len(points)))
    titles = [f"{s['concepts']} {plural(h)}" for h, s in first["sets"].items()]
    how = "dashed" if numeric else "hollow"
    fig, axes = panels(titles, axis, f"mean L1 ({how}: after the fine-tune)")
    for ax, held in zip(axes, first["sets"], strict=True):
        for method in (*SHOWN, CEILING):
            ends = [p["sets"][held]["methods"].get(method) for p in points.values()]
            if not all(ends):
                continue
            for when, style in (("before", "-"), ("after", "--")):
                if method == CEILING and when == "before":
                    continue
                colour, ours = COLOURS[method][0], method == PREDICTION
                ax.plot(
                    places,
                    [e[when]["l1"] for e in ends if e],
                    ls=style if numeric else "none",
                    color=colour,
                    lw=2.6 if ours else 1.3,
                    marker="o",
                    ms=3 if numeric else 9 if ours else 6,
                    mfc=colour if when == "before" or numeric else "white",
                    label=method if when == "before" or method == CEILING else None,
                )
        for when in ("before", "after"):
            bars = [(p.get("intervals") or {}).get(held, {}).get(when) for p in points.values()]
            if all(b and b["lo"] is not None for b in bars):
                lows, highs = ([b[k] for b in bars if b] for k in ("lo", "hi"))
                ax.vlines(places, lows, highs, color=COLOURS[PREDICTION][0], lw=1.2)
        if numeric:
            ax.set_xscale("log", base=2)
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.margins(x=0.2)
        ax.set_xticks(places, [textwrap.fill(name, 12) for name in points])
    save(fig, axes, path)
