"""What overfit trials show: Tables 2 and 3 of the paper, with seeds and intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuning.intervals import Mean, check_equal, over_seeds, text
from tuning.panels import panels, save
from tuning.study import Paper
from tuning.subjects import TRUTH, ZERO

Numbers = dict[str, Any]
INTERVALS = (
    "Student's t over seeds, 95 %; the gap and its differences are means over the concepts first"
)
SCORES = {"fd": 2, "kid": 2, "l1": 4, "gap": 3, "rmse": 3}
"""Scores and the digits they are shown with."""


def summarise(
    rows: Sequence[Mapping[str, Any]], ends: Mapping[str, Mapping[str, Numbers]]
) -> dict[str, Numbers]:
    """Variant → means per concept, over all, along the training, and against the first variant.

    rows: of all trials, each with `variant` and `end`; only trials that finished count at the end.
    ends: name of the end row → concept's text → its scores, which stand on the same images.
    Raises StudyError where numbers of images differ.
    """
    of_ends = [
        {"variant": name, "concept_id": s["concept_id"], **s}
        for name, by_concept in ends.items()
        for s in by_concept.values()
    ]
    check_equal([*rows, *of_ends])
    order = list(dict.fromkeys(r["variant"] for r in rows))
    last = max((r["step"] for r in rows), default=0)
    out: dict[str, Numbers] = {}
    first: dict[int, float] = {}
    for variant in order:
        mine = [r for r in rows if r["variant"] == variant]
        final = [r for r in mine if r["end"] == "finished" and r["step"] == _last_of(mine, r)]
        gaps = _by_seed(final)
        first = first or gaps
        both = sorted(gaps.keys() & first.keys())
        texts = dict.fromkeys(r["text"] for r in rows)
        out[variant] = {
            "concepts": {
                t: {s: _mean(r[s] for r in final if r["text"] == t) for s in SCORES} for t in texts
            },
            "gap": over_seeds(list(gaps.values())) if gaps else None,
            "against_first": over_seeds([gaps[i] - first[i] for i in both]) if both else None,
            "rmse": _mean(r["rmse"] for r in final),
            "finished": len(final),
            "stopped": len({_unit(r) for r in mine if r["end"] == "stopped"}),
            "curve": [
                {"step": s, "gap": _mean(r["gap"] for r in mine if r["step"] == s)}
                for s in sorted({r["step"] for r in mine})
            ],
            "last_step": last,
        }
    return out


def _unit(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["concept_id"], row["seed"]


def _last_of(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> int:
    return max(r["step"] for r in rows if _unit(r) == _unit(row))


def _mean(values: Iterable[float | None]) -> Mean | None:
    real = [v for v in values if v is not None]
    return over_seeds(real) if real else None


def _by_seed(final: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Seed → gap, mean over the concepts; seeds that lack a concept are left out."""
    concepts = {r["concept_id"] for r in final}
    out = {}
    for seed in sorted({r["seed"] for r in final}):
        mine = {r["concept_id"]: r["gap"] for r in final if r["seed"] == seed}
        if mine.keys() == concepts:
            out[seed] = sum(mine.values()) / len(mine)
    return out


def table(
    axis: str,
    points: Mapping[str, Numbers],
    ends: Mapping[str, Mapping[str, Numbers]],
    times: Mapping[str, Numbers],
    paper: Paper,
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the two ends, then the variants; the paper's numbers last."""
    texts = list(next(iter(ends.values())))
    shown = [
        s
        for s in ("fd", "kid", "l1")
        if any(e[t].get(s) is not None for e in ends.values() for t in texts)
    ]
    if "fd" in shown:  # at so many images KID says nothing that FD does not
        shown = [s for s in shown if s != "kid"]
    names = {"fd": "FD", "kid": "KID", "l1": "L1"}
    first = next(iter(points), "")
    heads = [axis, *(f"{names[s]}, {t}" for s in shown for t in texts), "gap left"]
    heads += [f"gap − that of {first}", "weight error", "blocks", "s to generate"]
    heads += [f"paper: {h}" for h in paper.heads]
    rows = []
    for name, by_concept in ends.items():
        cells = [f"{by_concept[t][s]:.{SCORES[s]}f}" for s in shown for t in texts]
        gap = {TRUTH: "0", ZERO: "1"}[name.partition(" (")[0]]
        rows.append([name, *cells, gap, "", "", "", "", *_of_paper(paper, name)])
    for name, point in points.items():
        cells = [text(point["concepts"][t][s], SCORES[s]) for s in shown for t in texts]
        time = times.get(name)
        against = text(point["against_first"], SCORES["gap"]) if name != first else ""
        label = name + (f" ({point['stopped']} stopped early)" if point["stopped"] else "")
        rows.append(
            [
                label,
                *cells,
                text(point["gap"], SCORES["gap"]) or "no trial finished",
                against,
                text(point["rmse"], SCORES["rmse"]),
                str(time["blocks"]) if time else "",
                f"{time['seconds']:.3f}" if time else "",
                *_of_paper(paper, name),
            ]
        )
    return heads, rows


def _of_paper(paper: Paper, name: str) -> list[str]:
    return list(paper.rows.get(name, [""] * len(paper.heads)))


def figure(
    axis: str,
    points: Mapping[str, Numbers],
    ends: Mapping[str, Mapping[str, Numbers]],
    path: Path,
) -> None:
    """A panel per concept: FD, or L1, of every variant; then the gap along the training."""
    texts = list(next(iter(ends.values())))
    score = "fd" if all(e[t].get("fd") is not None for e in ends.values() for t in texts) else "l1"
    label = "FD" if score == "fd" else "mean L1 to the true edit"
    fig, axes = panels([*texts, "gap left along the training"], axis, label)
    names = list(points)
    colours = {n: f"C{i}" for i, n in enumerate(names)}
    for ax, concept in zip(axes, texts, strict=False):
        for place, name in enumerate(names):
            value = points[name]["concepts"][concept][score]
            if value is None:
                continue
            error = None if value["lo"] is None else [[value["mean"] - value["lo"]]] * 2
            ax.errorbar(
                [place], [value["mean"]], error, fmt="o", ms=8, capsize=4, color=colours[name]
            )
        for name, by_concept in ends.items():
            style, colour = ("--", "#0f172a") if name.startswith(TRUTH) else (":", "#b45309")
            ax.axhline(by_concept[concept][score], ls=style, color=colour, lw=1.3, label=name)
        ax.margins(x=0.2)
        ax.set_xticks(range(len(names)), [textwrap.fill(n, 12) for n in names])
    curves = axes[-1]
    curves.set_xlabel("steps")
    for name in names:
        curve = [p for p in points[name]["curve"] if p["gap"]]
        curves.plot(
            [p["step"] for p in curve],
            [p["gap"]["mean"] for p in curve],
            marker="o",
            ms=3,
            color=colours[name],
            label=name,
        )
    curves.legend(frameon=False, fontsize=8.5, title=axis, title_fontsize=8.5)
    save(fig, axes, path)
