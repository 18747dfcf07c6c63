"""The report's section on studies: figure and table of each that the run directory holds.

What a study is and how it is run is `tuning/`'s; here its summary is read and shown.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.presentation.html import render
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


def studies_section(shown: Sequence[ShownStudy]) -> Markup:
    """HTML; empty without studies."""
    return render(
        "report/templates/studies.html",
        studies=[
            {
                "name": study.name,
                "axis": study.summary["axis"],
                "figure": base64.b64encode(study.figure).decode(),
                "table": study.summary["table"],
                "notes": _notes(study.summary),
            }
            for study in shown
        ],
    )


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
