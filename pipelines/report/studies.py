"""The report's section on studies: figure and table of each that the run directory holds.

What a study is and how it is run is `tuning/`'s; here its summary is read and shown.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipelines.runtime.run_dir import RunDir

FOLDER = "tuning"


@dataclass(frozen=True)
class ShownStudy:
    name: str
    summary: dict[str, Any]
    figure: bytes
    """PNG."""


def studies(run_dir: RunDir) -> list[ShownStudy]:
    """All studies of a run directory, by name; ArtifactError for a damaged one."""
    names = [
        f.split("/")[1]
        for f in run_dir.files(FOLDER)
        if f.count("/") == 2 and f.endswith("/summary.json")
    ]
    return [
        ShownStudy(
            name,
            run_dir.read_json(f"{FOLDER}/{name}/summary.json"),
            run_dir.read(f"{FOLDER}/{name}/figure.png"),
        )
        for name in names
    ]


def section(shown: Sequence[ShownStudy]) -> str:
    """HTML; empty without studies."""
    if not shown:
        return ""
    return "<h2>Studies</h2>" + "".join(_study(s) for s in shown)


def _study(study: ShownStudy) -> str:
    summary = study.summary
    heads, rows = summary["table"]["heads"], summary["table"]["rows"]
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(_cell(i, c) for i, c in enumerate(r))}</tr>" for r in rows)
    image = base64.b64encode(study.figure).decode()
    alt = escape(f"Study {study.name}: {summary['axis']}")
    notes = "".join(f'<p class="note">{escape(n)}</p>' for n in _notes(summary))
    return (
        f"<h3>{escape(summary['axis'][:1].upper() + summary['axis'][1:])}"
        f"<small>{escape(study.name)}</small></h3>"
        f'<img style="max-width: 100%; background: #fff" alt="{alt}"'
        f' src="data:image/png;base64,{image}">'
        f'<div class="scroll"><table class="nums"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{notes}"
    )


def _cell(place: int, value: str) -> str:
    return f'<td class="text">{escape(value)}</td>' if not place else f"<td>{escape(value)}</td>"


def _notes(summary: dict[str, Any]) -> list[str]:
    machine = summary["machine"]
    how = {
        "overfit": "A weight generator overfits one concept's adapter; scored on unseen images."
        " Gap left: 1 is zero LoRA's L1, 0 the trained adapter's.",
        "run": "Each variant branches the run; L1 on the validation concepts, before → after the"
        " fine-tune. A star: its difference to the first variant is clear.",
    }[summary["trial"]]
    seeds = summary["seeds"]
    out = [
        f"{how} {seeds} seed{'s' if seeds > 1 else ''}; intervals: {summary['intervals']}.",
        f"Scheduler {summary['scheduler']}: {summary['why']}.",
    ]
    if summary["paper_note"]:
        out.append(summary["paper_note"])
    if summary["failed"]:
        reasons = "; ".join(f"{f['trial']}: {f['reason']}" for f in summary["failed"])
        out.append(f"{len(summary['failed'])} trials failed and are left out: {reasons}")
    out.append(
        f"{machine['processor']}, {machine['cores']} cores, GPU {machine['gpu'] or 'none'};"
        f" commit {summary['commit'] or 'unknown'}."
    )
    return out
