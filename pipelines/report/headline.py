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
    """Source, prediction before any fine-tuning, true edit of the first shown concepts.

    `room`: CSS pixels a picture has. `rows`: text and three `pictures`, each of one image and what
    it shows.
    """
    size = max((png_width(d) for g in grid for d in g[SOURCE].values()), default=0)
    rows = []
    for g in grid[:3]:
        cell = g["cells"][PREDICTION]["before"]
        three = {
            SOURCE: g[SOURCE],
            f"{PREDICTION}, step 0": cell["images"] if cell else {},
            TRUTH: g[TRUTH],
        }
        pictures = [(what, dict(list(images.items())[:1])) for what, images in three.items()]
        rows.append({"text": g["concept"].text, "pictures": pictures})
    return {"room": 96 if size <= 48 else 128, "rows": rows}


def scoreboard(summary: Mapping[str, Any]) -> Numbers:
    """The prediction against every control, a row per held-out set and end of the fine-tune."""
    controls = [m for m in summary["methods"] if m not in (PREDICTION, *REFERENCES)]
    rows = []
    for held, numbers in summary["sets"].items():
        both = ends(numbers["last_step"])
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
