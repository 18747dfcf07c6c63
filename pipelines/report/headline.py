"""What stands at the head of the report: three examples, and wins against every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.presentation.cells import png_width
from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.presentation.scores import Numbers, ends
from pipelines.presentation.words import count
from pipelines.stages.contenders import PREDICTION, REFERENCES


def strip(grid: Sequence[Numbers]) -> Numbers:
    """Source, prediction along its fine-tune, true edit of the first shown concepts.

    `room`: CSS pixels a picture has. `heads`: title and note of each column. `rows`: text and
    `pictures`, each of one image and what it shows.
    """
    size = max((png_width(d) for g in grid for d in g[SOURCE].values()), default=0)
    if not grid:
        return {"room": 96, "heads": [], "rows": []}
    last, learned, pairs = (grid[0][k] for k in ("last_step", "learned", "pairs"))
    notes = {
        "before": "the text alone, step 0",
        "learned": f"+ {pairs} examples, {learned} learned steps",
        "after": f"+ short fine-tune, step {last}",
    }
    along = ends(last, learned)
    heads = [
        ("source", ""),
        *[("predicted", notes[when]) for when, _ in along],
        ("true edit", ""),
    ]
    rows = []
    for g in grid[:3]:
        shown = [(SOURCE, g[SOURCE])]
        for when, step in along:
            cell = g["cells"][PREDICTION][when]
            shown.append((f"{PREDICTION}, step {step}", cell["images"] if cell else {}))
        shown.append((TRUTH, g[TRUTH]))
        pictures = [(what, dict(list(images.items())[:1])) for what, images in shown]
        rows.append({"text": g["concept"].text, "pictures": pictures})
    return {"room": 96 if size <= 48 else 128, "heads": heads, "rows": rows}


def scoreboard(summary: Mapping[str, Any]) -> Numbers:
    """The prediction against every control, a row per held-out set and end of the fine-tune."""
    controls = [m for m in summary["methods"] if m not in (PREDICTION, *REFERENCES)]
    rows = []
    for held, numbers in summary["sets"].items():
        both = ends(numbers["last_step"], numbers.get("learned", 0))
        for when, step in both:
            ours = numbers["methods"][PREDICTION][when]
            rows.append(
                {
                    "set": count(numbers["concepts"], held) if when == "before" else None,
                    "span": len(both),
                    "step": step,
                    "l1": ours["l1"] if ours else None,
                    "against": [numbers["against"][m][when] for m in controls],
                }
            )
    return {"controls": controls, "rows": rows}
