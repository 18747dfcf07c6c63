"""Fig. 4: the score of every method by epoch, and by seconds of training."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipelines.comparison.numbers import name_of
from pipelines.presentation.curves import COLOURS, INK, LINE, drawing, label_ends, plain, stand_in
from pipelines.stages.contenders import IDENTITY, PREDICTION

MARKED = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Epochs that have a tick, besides the last."""


def curves_svg(summary: Mapping[str, Any]) -> Markup | None:
    """In the page's colours, light or dark; None where no curve was scored."""
    order = _drawn(summary)
    if not order:
        return None
    colour = {m: stand_in(i) for i, m in enumerate(order)}
    label = "score by epoch and by seconds"
    return drawing(lambda: plot(summary, colour, INK, LINE), "comparison", order, label, size=10)


def curves_png(summary: Mapping[str, Any]) -> bytes:
    """The same on white, for a README."""
    colour = {m: COLOURS[m][0] for m in _drawn(summary)}
    buffer = io.BytesIO()
    plot(summary, colour, "#1b1f2a", "#e5e2da").savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _drawn(summary: Mapping[str, Any]) -> list[str]:
    """Methods with a curve, from the best last score to the worst."""
    score = summary["score"]
    ends = {m: c[-1][score] for m, c in summary["curves"].items() if c and c[-1][score] is not None}
    return sorted(ends, key=lambda m: ends[m])


def plot(summary: Mapping[str, Any], colour: Mapping[str, str], ink: str, line: str) -> Any:
    """colour: of each method drawn. Two panels, the names right of the second."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    score = summary["score"]
    curves = {m: [p for p in summary["curves"][m] if p[score] is not None] for m in colour}
    figure = Figure(figsize=(12.4, 4.2))
    for index, (key, label) in enumerate((("epoch", "epochs"), ("seconds", "seconds of training"))):
        axes = figure.add_axes((0.05 + 0.405 * index, 0.14, 0.37, 0.76))
        for method, points in curves.items():
            x, y = [p[key] for p in points], [p[score] for p in points]
            _draw(axes, method, x, y, colour[method])
        marks = sorted({p[key] for m in colour for p in summary["curves"][m]})
        if key == "epoch":
            _epochs(axes, marks)
        else:
            _seconds(axes, [s for s in marks if s])
        axes.xaxis.set_minor_locator(NullLocator())
        if all(p[score] >= 0 for points in curves.values() for p in points):
            axes.set_ylim(bottom=0)  # KID may be below
        axes.set_xlabel(label, color=ink)
        title = f"{name_of(summary, score)}, lower is better"
        axes.set_title(title, fontsize=10.5, color=ink, loc="left", pad=4)
        plain(axes, ink, line)
    label_ends(axes, [(points[-1][score], m) for m, points in curves.items()], colour)
    return figure


def _draw(axes: Any, method: str, x: list[float], y: list[float], colour: str) -> None:
    if method == IDENTITY:
        axes.axhline(y[0], color=colour, linewidth=1.2, dashes=(5, 3))
        return
    ours = method == PREDICTION
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=3 if ours else 1.6,
        marker="o",
        markersize=6 if ours else 3.5,
        zorder=5 if ours else 3,
    )


def _epochs(axes: Any, epochs: list[int]) -> None:
    axes.set_xscale("symlog", base=2, linthresh=1)
    shown = [e for e in epochs if e in MARKED or e == epochs[-1]]
    axes.set_xticks(shown, [str(e) for e in shown])
    axes.set_xlim(left=-0.2)


def _seconds(axes: Any, seconds: list[float]) -> None:
    """seconds: those above zero."""
    least = min(seconds, default=1)
    axes.set_xscale("symlog", linthresh=least)
    most = axes.get_xlim()[1]
    decades = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
    axes.set_xticks([0, *(10.0**d for d in decades)], ["0", *(f"{10.0**d:g}" for d in decades)])
    axes.set_xlim(left=-0.05 * least)
