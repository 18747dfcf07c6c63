"""The studies' figures: one panel per held-out set, one legend beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LEGEND = 3.0
"""Inches beside the panels."""


def panels(titles: Sequence[str], x: str, y: str) -> tuple[Any, list[Any]]:
    """A figure and its axes, from zero upwards, with a faint grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.1 * len(titles) + LEGEND, 4.0), dpi=110)
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_xlabel(x)
        ax.grid(axis="y", color="#e5e2da")
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
    axes[0].set_ylabel(y)
    return figure, axes


def save(figure: Any, axes: Sequence[Any], path: Path) -> None:
    """Add the legend and write the PNG."""
    for ax in axes:
        ax.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    right = 1 - LEGEND / (4.1 * len(axes) + LEGEND)
    beside = {"loc": "center left", "bbox_to_anchor": (right + 0.01, 0.5)}
    figure.legend(handles, labels, frameon=False, fontsize=8.5, **beside)
    figure.subplots_adjust(left=0.06, right=right, bottom=0.16, top=0.9, wspace=0.18)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
