"""The report's curves: mean L1 along the fine-tune, one SVG panel per held-out set.

Matplotlib draws with stand-in colours that are then replaced by the page's CSS variables, and
text stays text in the page's font, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    REFERENCES,
    SCRATCH,
)

# method -> colour on a light page, on a dark page
COLOURS = {
    PREDICTION: ("#4338ca", "#a5b4fc"),
    "zero LoRA": ("#b45309", "#f0a04b"),
    "mean adapter": ("#0e7490", "#4cc3dd"),
    "nearest text": ("#be185d", "#f284b4"),
    "ridge": ("#4d7c0f", "#a3cf5f"),
    "shuffled prompt": ("#8b7d6b", "#b5a794"),
    "noised nearest": ("#9333ea", "#c99bf7"),
    IDENTITY: ("#64748b", "#94a3b8"),
    CEILING: ("#0f172a", "#e8ebf2"),
    CONTINUED: ("#1d4ed8", "#bfd4ff"),
    SCRATCH: ("#475569", "#cbd5e1"),
    "prediction, weights only": ("#6366f1", "#818cf8"),
    "1-D UNet": ("#0f766e", "#5eead4"),
    "1-D UNet, weights only": ("#65a30d", "#bef264"),
    "pix2pix": ("#334155", "#cbd5e1"),
    "pix2pix-zero-distilled": ("#a16207", "#facc15"),
    "E²GAN": ("#dc2626", "#fca5a5"),
    "prediction, E²GAN’s budget": ("#0284c7", "#7dd3fc"),
}
INK, LINE = "#010203", "#010205"  # stand-ins for text and for rules


def variable(method: str) -> str:
    """Name of the CSS variable that holds a method's colour."""
    return f"--{re.sub('[^a-z]+', '-', method.lower())}"


def stand_in(index: int) -> str:
    """The colour in which the drawing has the method of this index."""
    return f"#fe{index:02x}dc"


def panel(name: str, methods: Mapping[str, Any], order: Sequence[str]) -> str:
    """An SVG element (no XML prolog) of the curves of one held-out set.

    name: makes the ids of the drawing unique in a page. methods: as in
    `report_numbers.summarise`. order: methods as drawn; those without a curve are left out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # hashsalt: the same numbers give the same bytes
    drawn = [m for m in order if methods[m]["curve"]]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11}):
        figure = Figure(figsize=(5.6, 3.6))
        axes = figure.add_axes((0.105, 0.13, 0.60, 0.83))
        _draw(axes, methods, drawn)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return for_page(buffer.getvalue(), name, drawn, "mean L1 along the fine-tune")


def _draw(axes: Any, methods: Mapping[str, Any], order: Sequence[str]) -> None:
    from matplotlib.ticker import NullLocator

    fixed = (IDENTITY, *REFERENCES)
    steps = sorted({p["step"] for m in order if m not in fixed for p in methods[m]["curve"]})
    steps = steps or [0]
    ends: list[tuple[float, str]] = []
    for index, method in enumerate(order):
        curve = methods[method]["curve"]
        ours = method == PREDICTION
        style: dict[str, Any] = {"color": stand_in(index), "zorder": 5 if ours else 3}
        if method in fixed:
            dash = (0, (1, 0)) if method == IDENTITY else (0, (5, 3))
            axes.axhline(curve[-1]["l1"], linewidth=1.4, linestyle=dash, **style)
        else:
            axes.plot(
                [p["step"] for p in curve],
                [p["l1"] for p in curve],
                linewidth=3 if ours else 1.6,
                marker="o",
                markersize=6 if ours else 3.5,
                **style,
            )
        ends.append((curve[-1]["l1"], method))
    if len(steps) > 2:
        axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(steps[0] - 0.2, max(steps[-1] * 1.06, steps[-1] + 0.1))
    axes.margins(y=0.08)
    axes.set_xlabel("fine-tuning steps", color=INK)
    axes.set_title("mean L1, lower is better", fontsize=10.5, color=INK, loc="left", pad=4)
    plain(axes, INK, LINE)
    low, high = axes.get_ylim()
    for (_, method), y in zip(sorted(ends), apart(sorted(ends), low, high), strict=True):
        axes.annotate(
            method,
            (1.0, (y - low) / (high - low)),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=stand_in(order.index(method)),
            fontweight="bold" if method == PREDICTION else "normal",
        )


def plain(axes: Any, ink: str, line: str) -> None:
    """Faint horizontal rules and a bottom line, nothing else; ink, line: colours."""
    axes.grid(axis="y", color=line, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(color=line, labelcolor=ink, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(line)


def apart(ends: Sequence[tuple[float, str]], low: float, high: float) -> list[float]:
    """Heights of the labels, near their lines and at least a line of text apart."""
    gap = 0.068 * (high - low)
    at: list[float] = []
    for value, _ in ends:
        at.append(max(value, at[-1] + gap) if at else value)
    ceiling = high
    for i in reversed(range(len(at))):
        at[i] = min(at[i], ceiling)
        ceiling = at[i] - gap
    return at


def for_page(svg: str, name: str, order: Sequence[str], label: str) -> str:
    """Cut to the element, colours to variables, ids made unique, font left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1var(--font)", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]+"', "", svg)
    colours = {stand_in(i): variable(m) for i, m in enumerate(order)}
    for colour, target in {**colours, INK: "--ink", LINE: "--line"}.items():
        svg = svg.replace(colour, f"var({target})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
