"""The learning rate that a recipe gives each step."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.targets.recipe import Recipe


@settings(max_examples=100, deadline=None)
@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 20),
    lr=st.floats(1e-5, 1),
    share=st.floats(0, 1),
)
def test_rate_rises_then_falls_within_its_bounds(
    steps: int, warmup: int, lr: float, share: float
) -> None:
    recipe = Recipe(steps=steps, batch=1, lr=lr, lr_final=share * lr, warmup=warmup)
    rates = [recipe.rate(i) for i in range(steps)]
    assert all(0 < r <= lr * (1 + 1e-9) for r in rates)
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert all(a <= b + 1e-12 for a, b in pairwise(rising))
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    assert all(r >= recipe.lr_final - 1e-12 for r in falling)


def test_rate_by_hand() -> None:
    recipe = Recipe(steps=10, batch=1, lr=0.8, lr_final=0.2, warmup=2)
    assert [recipe.rate(i) for i in (0, 1, 2, 6)] == pytest.approx([0.4, 0.8, 0.8, 0.5])
    assert recipe.rate(10) == pytest.approx(0.2)
    assert Recipe(steps=7, batch=1, lr=0.3, lr_final=0.3).rate(5) == pytest.approx(0.3)
