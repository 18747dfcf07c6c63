"""What the other tests compare by, and that a limited processor is one."""

from __future__ import annotations

import os
import platform

import pytest
import torch

from tests.rounding import in_float64, in_its_precision, rounding


def test_float64_is_for_a_test_alone() -> None:
    @in_float64()
    def inside() -> torch.dtype:
        return torch.randn(2).dtype

    @in_float64()
    def failing() -> None:
        raise ValueError

    assert inside() == torch.float64
    with pytest.raises(ValueError):
        failing()
    assert torch.randn(2).dtype == torch.float32


def test_orders_of_a_sum_stay_within_the_bound_and_an_error_does_not() -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    orders = []
    for terms in (numbers, numbers.flip(0), numbers.sort().values):
        partial = torch.zeros(())
        largest = []
        for term in terms:
            partial = partial + term
            largest.append(partial.abs())
        orders.append(partial)
        bound = rounding(1000, torch.stack(largest))
    off = max(abs(a - b) for a in orders for b in orders)
    assert 0 < off < bound
    assert numbers.abs().median() > 10 * bound  # one term forgotten


def test_a_float64_network_reads_float32() -> None:
    with in_float64():
        layer = torch.nn.Linear(3, 2)
    in_its_precision(layer)
    assert layer(torch.ones(1, 3, dtype=torch.float32)).dtype == torch.float64


def test_the_limits_of_the_environment_hold() -> None:
    """Or tests/processors.py would run the same thing three times."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    if asked and platform.machine() == "x86_64":
        assert torch.backends.cpu.get_cpu_capability() == asked
