"""Pictures of any size: what is edited where, and what comes back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modeling.targets.any_size import LONGEST, at_own_size, working_sides
from tests.rounding import rounding

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES, st.sampled_from([32, 64, 256]), st.sampled_from([1, 2, 4, 8]))
def test_the_working_sides(height: int, width: int, size: int, multiple: int) -> None:
    sides = working_sides(height, width, size, multiple)
    assert min(sides) == size and max(sides) <= LONGEST * size
    assert all(s % multiple == 0 for s in sides)
    assert working_sides(width, height, size, multiple) == sides[::-1]
    # the aspect is kept but for the rounding to a multiple
    exact = max(height, width) / min(height, width) * size
    if exact <= LONGEST * size:
        assert abs(max(sides) - exact) <= multiple / 2 + 1e-9


def test_a_picture_of_the_training_size_is_edited_as_it_is() -> None:
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(at_own_size(lambda p: -p, x, 32, 4), -x)


@given(st.integers(1, 90), st.integers(1, 90))
def test_nothing_changed_leaves_every_pixel(height: int, width: int) -> None:
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1
    assert torch.equal(at_own_size(lambda p: p, x, 16, 4), x)


@given(st.integers(1, 90), st.integers(1, 90))
def test_a_change_that_is_the_same_everywhere_is_added_everywhere(height: int, width: int) -> None:
    def darker(pictures: Tensor) -> Tensor:
        assert min(pictures.shape[-2:]) == 16 and all(s % 4 == 0 for s in pictures.shape[-2:])
        return pictures - 0.25

    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(width)) - 0.5
    made = at_own_size(darker, x, 16, 4)
    torch.testing.assert_close(made, x - 0.25, rtol=0, atol=rounding(64, x))


def test_detail_that_the_translator_never_saw_stays() -> None:
    fine = torch.full((1, 3, 64, 64), -0.5)
    fine[..., ::2] = 0.5  # gone at 16 pixels
    made = at_own_size(lambda p: p + 0.2, fine, 16, 4)
    torch.testing.assert_close(made - fine, torch.full_like(fine, 0.2), rtol=0, atol=1e-5)
