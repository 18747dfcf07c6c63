"""The rule for one number of steps, against its definition by brute force."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.convergence import converged_at

SCORES = st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(scores=SCORES, tolerance=st.floats(0, 1))
def test_first_step_after_which_nothing_is_much_better(
    scores: list[float], tolerance: float
) -> None:
    steps = [10 * i for i in range(len(scores))]

    def good(i: int) -> bool:
        return all(scores[i] <= later + tolerance * abs(later) for later in scores[i:])

    assert converged_at(steps, scores, tolerance) == next(s for i, s in enumerate(steps) if good(i))


def test_by_hand() -> None:
    steps = [0, 10, 20, 30, 40]
    falling = [1.0, 0.5, 0.40, 0.39, 0.395]
    assert converged_at(steps, falling, 0.05) == 20
    assert converged_at(steps, falling, 0.0) == 30
    assert converged_at(steps, [1.0, 1.0, 1.0, 1.0, 1.0], 0.0) == 0
    assert converged_at(steps, [5.0, 4.0, 3.0, 2.0, 1.0], 0.05) == 40
    # a good moment that training then leaves is not convergence, unless it stays the best
    assert converged_at(steps, [1.0, 0.2, 0.9, 0.5, 0.5], 0.05) == 10
    # KID can be below zero
    assert converged_at([1, 2, 3], [0.5, -0.10, -0.05], 0.05) == 2
    assert converged_at([7], [-0.1], 0.05) == 7


@pytest.mark.parametrize(
    ("steps", "scores", "tolerance"),
    [
        ([], [], 0.1),
        ([1, 2], [0.5], 0.1),
        ([1, 2], [0.5, float("nan")], 0.1),
        ([1, 2], [0.5, float("inf")], 0.1),
        ([1, 2], [0.5, 0.4], -0.1),
        ([1, 2], [0.5, 0.4], float("nan")),
    ],
)
def test_bad_input(steps: list[int], scores: list[float], tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"score|tolerance"):
        converged_at(steps, scores, tolerance)
