"""How far two orders of the same sum may lie apart, on any processor.

The width of a processor's vectors, the number of threads and the size of a batch choose the kernel,
and the kernel the order of its additions: equal maths ends in other last bits, in other ones on
every machine. A tolerance read off one of them fails on the next. So results are compared

- for equality, where the same calls are made on the same shapes in one process;
- else in float64 (`in_float64`), by torch.testing.assert_close: its 1e-7 is half a thousand
  million roundings, and far below what a wrong sign, scale or layer does;
- else, where float32 is the point, within a bound that follows from the work (`rounding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def in_float64() -> Iterator[None]:
    """Networks and random numbers made inside are float64. Also a decorator of a whole test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def rounding(terms: int, *values: Tensor) -> float:
    """What two orders of one computation may differ by at most, in the values' own precision.

    An operation rounds by half an eps of its result at most, and `terms` of them lie one after the
    other between input and output (a sum of n products: n). `values` are the largest that occur on
    the way, or what comes out where nothing larger does.
    """
    largest = max(float(v.detach().abs().max()) for v in values)
    return terms * torch.finfo(values[0].dtype).eps * largest


def in_its_precision(network: nn.Module) -> None:
    """From now on the network takes its inputs in its weights' precision, whatever they come in.

    Images in a training are float32.
    """
    dtype = next(network.parameters()).dtype

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)

    network.register_forward_pre_hook(convert)
