"""Curves in a page: the methods' colours, and an SVG drawing that serves light and dark.

Matplotlib draws with stand-in colours that are then replaced by the page's CSS variables, and
text stays text in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipelines.config.sections.scoring import GRADIENTS, JOINT, REPTILE
from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    SCRATCH,
    UNREFINED,
    ZERO_REFINED,
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
    JOINT: ("#115e59", "#99f6e4"),
    REPTILE: ("#9f580a", "#fde68a"),
    GRADIENTS: ("#7c2d12", "#fdba74"),
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
    "E²GAN, our fine-tune": ("#9f1239", "#fda4af"),
    "prediction, E²GAN’s budget": ("#0284c7", "#7dd3fc"),
    UNREFINED: ("#6d28d9", "#c4b5fd"),
    ZERO_REFINED: ("#92400e", "#fcd34d"),
}
INK, LINE = "#010203", "#010205"  # stand-ins for text and for rules


def variable(method: str) -> str:
    """Name of the CSS variable that holds a method's colour."""
    return f"--{re.sub('[^a-z]+', '-', method.lower())}"


def stand_in(index: int) -> str:
    """The colour in which the drawing has the method of this index."""
    return f"#fe{index:02x}dc"


def drawing(
    figure: Callable[[], Any], name: str, order: Sequence[str], label: str, size: float
) -> Markup:
    """An SVG element (no XML prolog) of a Matplotlib figure in stand-in colours.

    name: makes the ids of the drawing unique in a page. order: the methods drawn, by the index of
    their stand-in. label: what a screen reader says. size: of the letters, in points.
    """
    import matplotlib  # heavy: only where something is drawn

    # hashsalt: the same numbers give the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": size}):
        buffer = io.StringIO()
        figure().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_page(buffer.getvalue(), name, order, label))


def plain(axes: Any, ink: str, line: str) -> None:
    """Faint horizontal rules and a bottom line, nothing else; ink, line: colours."""
    axes.grid(axis="y", color=line, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(color=line, labelcolor=ink, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(line)


def label_ends(axes: Any, ends: Sequence[tuple[float, str]], colour: Mapping[str, str]) -> None:
    """Each method's name right of where its curve ends; ends: last value, method."""
    low, high = axes.get_ylim()
    ends = sorted(ends)
    for (_, method), y in zip(ends, apart(ends, low, high), strict=True):
        axes.annotate(
            method,
            (1.0, (y - low) / (high - low)),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=colour[method],
            fontweight="bold" if method == PREDICTION else "normal",
        )


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


def _for_page(svg: str, name: str, order: Sequence[str], label: str) -> str:
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
