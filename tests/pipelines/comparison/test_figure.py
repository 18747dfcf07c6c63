"""Fig. 4: every scored curve lies inside its panels."""

from __future__ import annotations

import pytest

from pipelines.comparison.figure import plot
from pipelines.comparison.numbers import summarise
from pipelines.presentation.curves import COLOURS
from tests.pipelines.comparison.hand_made import METHODS, rows


@pytest.mark.parametrize("shift", [0.0, -20.0])
def test_scores_below_zero_are_drawn_and_others_stand_on_zero(shift: float) -> None:
    """KID is unbiased and may be negative; the prediction ends at 12.5 + shift."""
    scored = [{**r, "fd": r["fd"] + shift} for r in rows()]
    summary = summarise(scored, METHODS)
    colour = {m: COLOURS[m][0] for m in METHODS}
    lowest = min(p["fd"] for m in METHODS for p in summary["curves"][m])
    for axes in plot(summary, colour, "black", "grey").axes:
        bottom = axes.get_ylim()[0]
        assert bottom == 0 if shift == 0 else bottom < lowest < 0
