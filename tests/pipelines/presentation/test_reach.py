"""How soon a fine-tune is where a long training ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.presentation.reach import crossing, reach
from pipelines.stages.contenders import CEILING, PREDICTION


def track(method: str, concept_id: str, points: list[tuple[int, float, float]]) -> list[dict]:
    """Rows (step, seconds, L1) of one method on one concept."""
    about = {"method": method, "concept_id": concept_id, "seed": 0}
    return [{**about, "step": s, "seconds": t, "l1": l1} for s, t, l1 in points]


def test_time_to_reach_what_a_long_training_reaches() -> None:
    rows = track(CEILING, "a", [(10, 5.0, 0.5), (60, 30.0, 0.2)])
    rows += track(CEILING, "b", [(10, 5.0, 0.5), (60, 30.0, 0.2)])
    rows += track(PREDICTION, "a", [(0, 1.0, 0.6), (4, 3.0, 0.2), (8, 5.0, 0.1)])
    rows += track(PREDICTION, "b", [(0, 1.0, 0.6), (4, 3.0, 0.4), (8, 5.0, 0.3)])
    found = reach(rows, PREDICTION, CEILING)
    assert found is not None
    # a: 30 s against 3 s; b never; the mean curve, 0.6, 0.3, 0.2, gets to 0.2 after 5 s
    assert (found["reached"], found["total"], found["ratio"]) == (1, 2, 5.0)
    assert found["mean_ratio"] == pytest.approx(30 / 5)
    assert (found["l1"], found["seconds"]) == (pytest.approx(0.2), 30.0)
    assert reach(rows, "ridge", CEILING) is None
    never = reach([r for r in rows if r["concept_id"] == "b"], PREDICTION, CEILING)
    assert never is not None and never["mean_ratio"] is None and never["ratio"] == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.01, 1))
def test_time_to_reach_lies_between_the_scored_steps(values: list[float], target: float) -> None:
    points = [(i, 1.0 + i, v) for i, v in enumerate(values)]
    rows = track(PREDICTION, "a", points) + track(CEILING, "a", [(60, 30.0, target)])
    found = reach(rows, PREDICTION, CEILING)
    assert found is not None
    first = next((i for i, v in enumerate(values) if v <= target), None)
    if first is None:
        assert found["mean_ratio"] is None
    else:
        earliest = 1.0 + max(first - 1, 0)
        assert 30 / (1.0 + first) - 1e-9 <= found["mean_ratio"] <= 30 / earliest + 1e-9


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=8).map(lambda v: sorted(v, reverse=True)),
    st.floats(0, 100),
)
def test_a_falling_curve_crosses_where_its_value_is_the_target(
    values: list[float], target: float
) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    at = crossing(points, target)
    if at is None:
        assert values[-1] > target
        return
    i = min(int(at), len(values) - 2)
    value = values[i] + (at - i) * (values[i + 1] - values[i])
    assert value <= target + 1e-6
    assert at == 0 or value == pytest.approx(target, abs=1e-6)
