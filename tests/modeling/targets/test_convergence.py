"""The rules for the number of steps and the checkpoints kept, against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.targets.convergence import converged_at, kept_steps, steps_to_train

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


def test_a_part_of_the_start_where_the_best_is_near_zero() -> None:
    kid = [0.010, 0.004, 0.0021, 0.0020, -0.0001]
    steps = [10, 20, 30, 40, 50]
    assert converged_at(steps, kid, 0.05) == 50  # 5 % of next to nothing
    assert converged_at(steps, kid, 0.05, scale=0.05) == 30
    with pytest.raises(ValueError, match="scale"):
        converged_at(steps, kid, 0.05, scale=float("nan"))


# K checkpoints after convergence (paper Sec. 4.1)

COUNTS = st.integers(1, 12)


@settings(max_examples=300, deadline=None)
@given(converged=st.integers(1, 5000), count=COUNTS)
def test_all_checkpoints_are_kept_at_or_after_convergence(converged: int, count: int) -> None:
    steps = steps_to_train(converged, count)
    kept = kept_steps(steps, count)
    assert len(set(kept)) == count and kept == sorted(kept)
    assert converged <= kept[0] and kept[-1] == steps
    # no longer than that needs
    assert steps == converged if count == 1 else steps <= max(4 * count, 4 * converged / 3 + 1)
    if steps > max(converged, 4 * count):
        assert kept_steps(steps - 1, count)[0] < converged


@settings(max_examples=200, deadline=None)
@given(steps=st.integers(1, 20000), count=COUNTS)
def test_kept_steps_are_spread_evenly_over_the_last_quarter(steps: int, count: int) -> None:
    if count > max(1, steps // 4):
        with pytest.raises(ValueError, match="do not fit"):
            kept_steps(steps, count)
        return
    kept = kept_steps(steps, count)
    assert len(kept) == count and kept[-1] == steps and kept[0] > 0.75 * steps
    assert all(abs((b - a) - steps / 4 / count) < 1 for a, b in itertools.pairwise(kept))


def test_checkpoints_by_hand() -> None:
    assert kept_steps(10000, 4) == [8125, 8750, 9375, 10000]
    assert kept_steps(6, 1) == [6]
    assert steps_to_train(8125, 4) == 9999 and kept_steps(9999, 4)[0] == 8125
    assert steps_to_train(1, 3) == 12 and kept_steps(12, 3) == [10, 11, 12]
    for steps, count in ((0, 1), (10, 0), (11, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            kept_steps(steps, count)
    with pytest.raises(ValueError, match="both start at 1"):
        steps_to_train(0, 1)
