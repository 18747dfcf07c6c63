"""The report's page: what its templates place, section by section.

One file with nothing outside it: pictures as data URIs, the system's fonts, no scripts. The
templates escape every text that comes from an artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipelines.presentation import html
from pipelines.presentation.scores import WHENS, Numbers
from pipelines.presentation.words import FEW
from pipelines.report.headline import scoreboard, strip
from pipelines.report.number_tables import number_table
from pipelines.report.picture_tables import picture_table, scored_images, shown_images
from pipelines.stages.contenders import CEILING, IDENTITY


def render(
    summary: Numbers,
    grid: Sequence[Numbers],
    curves: Mapping[str, Markup],
    config_yaml: str,
    further: Markup,
) -> str:
    """The whole page.

    summary: as written to summary.json. grid: from `pictures.grids`. curves: an SVG element per
    held-out set. config_yaml: the resolved configuration. further: sections of HTML.
    """
    sets = summary["sets"]
    return html.render(
        "report/templates/page.html",
        summary=summary,
        ceiling=CEILING,
        few=FEW,
        strip=strip(grid),
        scoreboard=scoreboard(summary),
        shown=bool(grid),
        scored_images=scored_images(grid),
        shown_images=shown_images(grid),
        picture_tables=[
            picture_table(held, [g for g in grid if g["concept"].heldout == held]) for held in sets
        ],
        number_tables={h: number_table(n, summary["frechet"]) for h, n in sets.items()},
        published={h: number_table(n, summary["frechet"]) for h, n in summary["published"].items()},
        curves=curves,
        reached=_reached(sets),
        further=further,
        copies=_copies(summary),
        errors=_errors(summary["errors"]),
        absent={
            held: [m for m, found in numbers["methods"].items() if not found["curve"]]
            for held, numbers in sets.items()
        },
        kid=_has_kid(sets),
        made_with=_made_with(summary["stages"]),
        config_yaml=config_yaml,
    )


def _reached(sets: Mapping[str, Numbers]) -> list[Numbers]:
    """How much sooner a fine-tune gets where a long training ends, a row each."""
    return [
        {"held": held, "reference": reference, "method": method, **found}
        for held, numbers in sets.items()
        for reference, methods in numbers["reach"].items()
        for method, found in methods.items()
        if found is not None and method != IDENTITY
    ]


def _copies(summary: Numbers) -> list[Numbers]:
    """Are the predictions copies of training adapters? A row for each weight generator."""
    rows = []
    for held, methods in summary["memory"]["sets"].items():
        scored = summary["sets"].get(held, {}).get("methods", {})
        for method, distances in methods.items():
            start = (scored.get(method) or {}).get("before")
            l1 = start["l1"] if start else None
            rows.append({"held": held, "method": method, "l1": l1, **distances})
    return rows


def _errors(by_stage: Mapping[str, Mapping[str, int]]) -> list[Numbers]:
    return [
        {"stage": stage, "rows": rows, "reason": reason}
        for stage, reasons in by_stage.items()
        for reason, rows in reasons.items()
    ]


def _has_kid(sets: Mapping[str, Numbers]) -> bool:
    ends = [m[when] for s in sets.values() for m in s["methods"].values() for when in WHENS]
    return any(end and end["kid"] is not None for end in ends)


def _made_with(stages: Mapping[str, Any]) -> Numbers:
    """Commits and package versions of the finished stages; `mixed`: not the same for all."""
    commits = sorted({s["commit"] or "" for s in stages.values()})
    named: dict[str, set[str]] = {}
    for stage in stages.values():
        for package, version in stage["versions"].items():
            named.setdefault(package, set()).add(version)
    return {
        "commits": [c or "unknown (no git repository)" for c in commits],
        "versions": [f"{p} {' / '.join(sorted(v))}" for p, v in sorted(named.items())],
        "mixed": len(commits) > 1 or any(len(v) > 1 for v in named.values()),
    }
