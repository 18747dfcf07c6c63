"""The comparison as a page's section, as a page of its own, and as pictures for a README."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from types import SimpleNamespace
from typing import Any

from pipelines.comparison.numbers import PAPER, in_order, lines, markdown, name_of
from pipelines.config.sections.scoring import BASELINES
from pipelines.presentation.cells import ABOUT, picture_cell
from pipelines.presentation.curves import (
    COLOURS,
    INK,
    LINE,
    apart,
    for_page,
    plain,
    stand_in,
    variable,
)
from pipelines.presentation.numbers import Numbers, duration, plural
from pipelines.presentation.pictures import SOURCE, TRUTH, When, draw_png
from pipelines.presentation.style import style_sheet
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import IDENTITY, PREDICTION

TITLES = {
    "pix2pix": "9 ResNet blocks, from scratch",
    "pix2pix-zero-distilled": "Co-Mod-GAN, from scratch",
    "E²GAN": "the base with LoRA, from zero",
    "prediction, E²GAN’s budget": "from the prediction, trained as long",
    **ABOUT,
}
CONCEPTS_SHOWN = 8


def write(
    run_dir: RunDir,
    folder: str,
    summary: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
) -> None:
    """index.html, table.md, curves.png and pictures.png in a folder of the run directory."""
    grid = grids(pictures, summary["methods"])
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><title>The comparison</title>'
        f"<style>{style_sheet()}</style></head>\n<body><main>\n"
        f"{section(summary, pictures)}\n</main></body></html>\n"
    )
    run_dir.write(f"{folder}/index.html", page.encode())
    run_dir.write(f"{folder}/table.md", markdown(summary).encode())
    run_dir.write(f"{folder}/curves.png", curves_png(summary))
    run_dir.write(f"{folder}/pictures.png", grid_png(grid, summary["methods"]))


def section(summary: Mapping[str, Any], pictures: Iterable[Mapping[str, Any]]) -> str:
    """HTML: Table 1, Fig. 4, Fig. 3, and what differs from the paper's."""
    n = ", ".join(str(i) for i in summary["images"])
    many = summary["table"]["concepts"]
    return "\n".join(
        [
            "<h2>Every method at its own budget</h2>",
            '<p class="note">As in the paper’s Table 1: each method trains as long as published, or'
            f" as configured. {many} held-out concepts that all methods have, drawn by the seed"
            f" before anything was trained; {n} unseen images of {summary['size']}×"
            f"{summary['size']} a concept, the same for all. In brackets 95 % intervals over"
            " concepts. Seconds: an epoch of each method timed by one actor alone, times its"
            " epochs, prediction included; loading and scoring are in none.</p>",
            f'<p class="lead">{escape(" ".join(lines(summary)))}</p>',
            _table(summary, summary["table"]["methods"]),
            f'<div class="card">{curves_svg(summary)}</div>',
            _reach(summary),
            _grid(grids(pictures, summary["methods"]), summary["methods"]),
            *_adapting(summary),
            "<h3>What differs from the paper’s table</h3>",
            f"<ul>{''.join(f'<li>{escape(d)}</li>' for d in summary['differs'])}</ul>",
        ]
    )


def _table(summary: Mapping[str, Any], methods: Mapping[str, Numbers]) -> str:
    score = summary["score"]
    name = escape(name_of(summary, score))
    heads = [
        *("", "epochs", f"{name}, start", f"{name}, end", "L1, end", "seconds"),
        *("weights trained", "TFLOP", "prediction better on", "in the paper"),
    ]
    body = []
    for method, line in in_order(summary, methods):
        against = line.get(f"{score}_against")
        paper = PAPER.get(method, {})
        start = line[f"{score}_start"]
        cells = [
            str(line["epochs"]),
            "" if start is None else f"{start:.2f}",
            _interval(line[score], 2),
            _interval(line["l1"], 4),
            duration(line["seconds"]) if line["seconds"] else "",
            f"{line['trainable']:,}" if line["trainable"] else "",
            f"{line['training_flops'] / 1e12:.3g}" if line["training_flops"] else "",
            f'<span class="{against["verdict"]}">{against["wins"]} of {against["total"]}</span>'
            if against
            else "",
            f"{paper['fd']}<br><small>{duration(paper['seconds'])}</small>" if paper else "",
        ]
        ours = ' class="ours"' if method == PREDICTION else ""
        body.append(
            f'<tr{ours}><th><span class="dot" style="background: var({variable(method)})"></span>'
            f"{escape(method)}<small>{escape(TITLES.get(method, ''))}</small></th>"
            + "".join(f"<td>{c}</td>" for c in cells)
            + "</tr>"
        )
    return (
        '<div class="card scroll"><table class="nums wrap"><thead><tr>'
        + "".join(f"<th>{h}</th>" for h in heads)
        + f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _interval(value: Mapping[str, Any] | None, digits: int) -> str:
    if not value:
        return ""
    text = f"<b>{value['mean']:.{digits}f}</b>"
    if value["lo"] is None:
        return text
    return f"{text}<br><small>{value['lo']:.{digits}f} to {value['hi']:.{digits}f}</small>"


def _reach(summary: Mapping[str, Any]) -> str:
    scores = [s for s in ("l1", summary["score"]) if any(f[s] for f in summary["reach"].values())]
    if not scores:
        return ""
    top = "".join(f"<th colspan=4>{escape(name_of(summary, s))}</th>" for s in scores)
    heads = "<th>it ends at</th><th>after</th><th>prediction there</th><th>concepts</th>"
    body = []
    for goal, by_score in in_order(summary, summary["reach"]):
        cells = []
        for score in scores:
            found = by_score[score]
            if not found:
                cells.append("<td></td>" * 4)
                continue
            at = found["at"]
            sooner = f"<br><small>{_times(found['sooner'])} sooner</small>" if at else ""
            cells.append(
                f"<td>{found['score']:.{4 if score == 'l1' else 2}f}</td>"
                f"<td>{duration(found['seconds'])}</td>"
                f"<td>{duration(at) if at is not None else 'never'}{sooner}</td>"
                f"<td>{found['reached']} of {found['concepts']}</td>"
            )
        body.append(f"<tr><th>{escape(goal)}</th>{''.join(cells)}</tr>")
    return (
        "<h3>How soon the prediction is where others end</h3>"
        '<p class="note">When the mean curve of its fine-tune falls to where the other method’s'
        " ends, and on how many concepts it does at a scored epoch.</p>"
        '<div class="card scroll"><table class="nums"><thead>'
        f"<tr><th></th>{top}</tr><tr><th></th>{heads * len(scores)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.1f} times"


def _adapting(summary: Mapping[str, Any]) -> list[str]:
    out = ["<h3>Methods that adapt the base, on all compared concepts</h3>"]
    for held, found in summary["adapting"].items():
        out += [
            f"<h4>{found['concepts']} {escape(plural(held))}</h4>",
            _table(summary, found["methods"]),
        ]
    return out


# the figure


def _plot(summary: Mapping[str, Any], colour: Mapping[str, str], ink: str, line: str) -> Any:
    """Two panels: the score by epoch (Fig. 4) and by seconds of training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    score = summary["score"]
    figure = Figure(figsize=(12.4, 4.2))
    name = name_of(summary, score)
    for index, (key, label) in enumerate((("epoch", "epochs"), ("seconds", "seconds of training"))):
        axes = figure.add_axes((0.05 + 0.405 * index, 0.14, 0.37, 0.76))
        ends: list[tuple[float, str]] = []
        for method in colour:
            points = [p for p in summary["curves"][method] if p[score] is not None]
            ours = method == PREDICTION
            if method == IDENTITY:
                axes.axhline(points[0][score], color=colour[method], linewidth=1.2, dashes=(5, 3))
            else:
                axes.plot(
                    [p[key] for p in points],
                    [p[score] for p in points],
                    color=colour[method],
                    linewidth=3 if ours else 1.6,
                    marker="o",
                    markersize=6 if ours else 3.5,
                    zorder=5 if ours else 3,
                )
            ends.append((points[-1][score], method))
        if key == "epoch":
            ticks = sorted({p["epoch"] for m in colour for p in summary["curves"][m]})
            axes.set_xscale("symlog", base=2, linthresh=1)
            shown = [t for t in ticks if t in (0, 1, 2, 5, 10, 20, 50, 100, 200) or t == ticks[-1]]
            axes.set_xticks(shown, [str(t) for t in shown])
            axes.set_xlim(left=-0.2)
        else:
            least = min(
                (p["seconds"] for m in colour for p in summary["curves"][m] if p["seconds"]),
                default=1,
            )
            axes.set_xscale("symlog", linthresh=least)
            most = axes.get_xlim()[1]
            decades = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
            axes.set_xticks(
                [0, *(10.0**d for d in decades)], ["0", *(f"{10.0**d:g}" for d in decades)]
            )
            axes.set_xlim(left=-0.05 * least)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label, color=ink)
        axes.set_title(f"{name}, lower is better", fontsize=10.5, color=ink, loc="left", pad=4)
        plain(axes, ink, line)
        if index:
            low, high = axes.get_ylim()
            ends.sort()
            for (_, method), y in zip(ends, apart(ends, low, high), strict=True):
                axes.annotate(
                    method,
                    (1.0, (y - low) / (high - low)),
                    xycoords="axes fraction",
                    xytext=(7, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                    color=colour[method],
                    fontweight="bold" if method == PREDICTION else "normal",
                )
    return figure


def _drawn(summary: Mapping[str, Any]) -> list[str]:
    """Methods with a curve, from the best last score to the worst."""
    score = summary["score"]
    ends = {m: c[-1][score] for m, c in summary["curves"].items() if c and c[-1][score] is not None}
    return sorted(ends, key=lambda m: ends[m])


def curves_svg(summary: Mapping[str, Any]) -> str:
    """In the page's colours, light or dark."""
    import matplotlib

    order = _drawn(summary)
    if not order:
        return '<p class="none">No curve was scored.</p>'
    # hashsalt: the same numbers give the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "comparison"}):
        buffer = io.StringIO()
        figure = _plot(summary, {m: stand_in(i) for i, m in enumerate(order)}, INK, LINE)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return for_page(buffer.getvalue(), "comparison", order, "score by epoch and by seconds")


def curves_png(summary: Mapping[str, Any]) -> bytes:
    order = _drawn(summary)
    figure = _plot(summary, {m: COLOURS[m][0] for m in order}, "#1b1f2a", "#e5e2da")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


# the pictures


def grids(pictures: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> list[Numbers]:
    """Of the first concepts that have all methods, the pictures at both ends, as of
    `report_pictures.grids`."""
    images: dict[str, dict[tuple[str, int], dict[str, bytes]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    texts, scores = {}, {}
    for p in pictures:
        scores[p["concept_id"], p["method"], p["epoch"]] = p["l1"]
        images[p["concept_id"]][p["method"], p["epoch"]].setdefault(p["image_id"], p["image"])
        texts[p["concept_id"]] = p["text"]
    wanted = {m for m in methods if m != IDENTITY}
    out = []
    for concept_id, found in images.items():
        if not wanted <= {m for m, _ in found}:
            continue
        cells: dict[str, dict[str, Numbers | None]] = {}
        for method in wanted:
            epochs = sorted(e for m, e in found if m == method)
            ends = {"before": 0 if epochs[0] == 0 else None, "after": epochs[-1]}
            cells[method] = {
                when: None
                if epoch is None
                else {
                    "images": found[method, epoch],
                    "l1": scores[concept_id, method, epoch],
                    "best": False,
                }
                for when, epoch in ends.items()
            }
        out.append(
            {
                "concept": SimpleNamespace(text=texts[concept_id]),
                SOURCE: found[SOURCE, 0],
                TRUTH: found[TRUTH, 0],
                "cells": cells,
            }
        )
    return out[:CONCEPTS_SHOWN]


def _columns(methods: Sequence[str]) -> list[tuple[str, str, str, When]]:
    """Title, note, method, end: the paper's four methods and ours before the fine-tune."""
    columns: list[tuple[str, str, str, When]] = [
        ("source", "", SOURCE, "before"),
        ("editor", "the true edit", TRUTH, "before"),
    ]
    if PREDICTION in methods:
        columns.append(("PREDICTION", "epoch 0", PREDICTION, "before"))
        columns.append(("PREDICTION", "fine-tuned", PREDICTION, "after"))
    # short enough for a column; Pillow's font has no ²
    named = {"pix2pix-zero-distilled": "p2p-zero-dist.", "E²GAN": "E2GAN"}
    columns += [
        (named.get(m, m), "fully trained", m, "after")
        for m in ("E²GAN", *BASELINES)
        if m in methods
    ]
    return columns


def grid_png(grid: Sequence[Numbers], methods: Sequence[str]) -> bytes:
    """Fig. 3 as one PNG."""
    return draw_png(grid, _columns(methods))


def _grid(grid: Sequence[Numbers], methods: Sequence[str]) -> str:
    if not grid:
        return '<p class="none">No concept has pictures of all methods.</p>'
    columns = _columns(methods)
    heads = "".join(
        f'<th class="ours">prediction<small>{note}</small></th>'
        if m == PREDICTION
        else f"<th>{escape(t)}<small>{note}</small></th>"
        for t, note, m, _ in columns
    )
    body = []
    for row in grid:
        text = row["concept"].text
        body.append(
            f'<tr class="concept"><th colspan={len(columns)}><span>“{escape(text)}”</span></th>'
            "</tr>"
        )
        cells = []
        for _, _, method, when in columns:
            if method in (SOURCE, TRUTH):
                images, label = row[method], "&nbsp;"
            else:
                cell = row["cells"][method][when]
                images, label = (cell["images"], f"{cell['l1']:.3f}") if cell else ({}, "")
            ours = ' class="ours"' if method == PREDICTION else ""
            cells.append(f"<td{ours}>{picture_cell(images, method, text, label)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        "<h3>Pictures</h3>"
        '<p class="note">The first of the compared concepts, in the order drawn; the first unseen'
        " images. Under each: its L1 over all of the concept’s unseen images.</p>"
        f'<div class="card scroll"><table class="grid"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
