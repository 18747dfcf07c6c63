"""Table 1 as a page's rows, and as Markdown for a README: the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.comparison.methods import TITLES
from pipelines.comparison.numbers import in_order, name_of
from pipelines.comparison.paper import PAPER
from pipelines.presentation.scores import Numbers
from pipelines.stages.contenders import PREDICTION


def table_rows(summary: Mapping[str, Any], methods: Mapping[str, Numbers]) -> list[Numbers]:
    """A method each, in the comparison's order; `start`, `end`, `against` are of its main score."""
    score = summary["score"]
    return [
        {
            **{k: line[k] for k in ("epochs", "l1", "seconds", "trainable", "training_flops")},
            "method": method,
            "title": TITLES.get(method, ""),
            "start": line[f"{score}_start"],
            "end": line[score],
            "against": line.get(f"{score}_against"),
            "paper": PAPER.get(method),
        }
        for method, line in in_order(summary, methods)
    ]


def markdown(summary: Mapping[str, Any]) -> str:
    """For a README."""
    name = name_of(summary, summary["score"])
    score = summary["score"]
    head = [
        *("method", "epochs", f"{name} at the start", f"{name} at the end", "L1 at the end"),
        *("seconds", "trained weights", "TFLOP", "prediction better", "paper: FID, seconds"),
    ]
    body = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for method, line in in_order(summary, summary["table"]["methods"]):
        against = line.get(f"{score}_against")
        paper = PAPER.get(method)
        body.append(
            "| "
            + " | ".join(
                [
                    f"**{method}**" if method == PREDICTION else method,
                    str(line["epochs"]),
                    _number(line[f"{score}_start"]),
                    _with_interval(line[score]),
                    _with_interval(line["l1"], 4),
                    f"{line['seconds']:.2f}",
                    f"{line['trainable']:,}",
                    f"{line['training_flops'] / 1e12:.2f}",
                    f"{against['wins']} of {against['total']}{_mark(against)}" if against else "",
                    f"{paper['fd']}, {paper['seconds']:g}" if paper else "",
                ]
            )
            + " |"
        )
    return "\n".join(body) + "\n"


def _mark(against: Mapping[str, Any]) -> str:
    """A star where the interval holds zero."""
    return {"worse": " (loses)", "undecided": "*"}.get(against["verdict"], "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _with_interval(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    if not value:
        return ""
    if value["lo"] is None:
        return f"{value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f} ({value['lo']:.{digits}f} to {value['hi']:.{digits}f})"
