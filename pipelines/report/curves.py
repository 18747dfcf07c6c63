"""The report's curves: mean L1 along the fine-tune, one drawing per held-out set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipelines.presentation.curves import INK, LINE, drawing, label_ends, plain, stand_in
from pipelines.stages.contenders import IDENTITY, PREDICTION, REFERENCES

STILL = (IDENTITY, *REFERENCES)
"""Drawn as a level, at the last score."""


def panel(name: str, methods: Mapping[str, Any], order: Sequence[str]) -> Markup:
    """An SVG element of the curves of one held-out set.

    name: makes the ids of the drawing unique in a page. methods: as in `numbers.summarise`. order:
    methods as drawn; those without a curve are left out.
    """
    curves = {m: methods[m]["curve"] for m in order if methods[m]["curve"]}
    label = "mean L1 along the fine-tune"
    return drawing(lambda: _figure(curves), name, list(curves), label, size=11)


def _figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    steps = sorted({p["step"] for m, curve in curves.items() if m not in STILL for p in curve})
    steps = steps or [0]
    colour = {m: stand_in(i) for i, m in enumerate(curves)}
    figure = Figure(figsize=(5.6, 3.6))
    axes = figure.add_axes((0.105, 0.13, 0.60, 0.83))
    for method, curve in curves.items():
        _draw(axes, method, curve, colour[method])
    if len(steps) > 2:
        axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(steps[0] - 0.2, max(steps[-1] * 1.06, steps[-1] + 0.1))
    axes.margins(y=0.08)
    axes.set_xlabel("fine-tuning steps", color=INK)
    axes.set_title("mean L1, lower is better", fontsize=10.5, color=INK, loc="left", pad=4)
    plain(axes, INK, LINE)
    label_ends(axes, [(curve[-1]["l1"], m) for m, curve in curves.items()], colour)
    return figure


def _draw(axes: Any, method: str, curve: Sequence[Mapping[str, Any]], colour: str) -> None:
    ours = method == PREDICTION
    style: dict[str, Any] = {"color": colour, "zorder": 5 if ours else 3}
    if method in STILL:
        dash = (0, (1, 0)) if method == IDENTITY else (0, (5, 3))
        axes.axhline(curve[-1]["l1"], linewidth=1.4, linestyle=dash, **style)
        return
    axes.plot(
        [p["step"] for p in curve],
        [p["l1"] for p in curve],
        linewidth=3 if ours else 1.6,
        marker="o",
        markersize=6 if ours else 3.5,
        **style,
    )
