"""From the memory of the processor to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x.to(device)`; to a GPU by way of page-locked memory, so that nobody waits for the copy.

    torch keeps such memory for the next copy of the size, and until the copy has been made.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
