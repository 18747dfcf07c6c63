"""FLOPs of anything that runs, counted on tensors without data; weights of a network.

A multiplication and an addition are two FLOPs. Only matrix products and convolutions are counted
(torch.utils.flop_counter); the rest is time, not FLOPs, and belongs to the utilisation that a plan
assumes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

META = torch.device("meta")


def count_flops(call: Callable[[], object]) -> float:
    """FLOPs of what `call` runs, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def weights_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
