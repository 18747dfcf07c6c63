"""Invented concepts: the edits of one changed at random, so that no training is short of families.

A refiner that has seen the collection's few families alone learns to tell which of them a gradient
points to, and is lost with another. Here edits are put through a random tone curve, a random mix of
colours and a random smooth veil, the same for all pictures of a concept. Not in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.targets.adapter_training import to_uint8, to_unit
from modeling.transfer import to_device

VEIL = 4
"""Side of the noise that a veil is drawn from, before it is spread over the picture."""


def invented(edited: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 [B, M, 3, H, W] → the same, each of the B concepts changed in its own way."""
    device, count = edited.device, len(edited)

    def draw(*shape: int) -> Tensor:
        return to_device(torch.randn(count, *shape, generator=rng), device)

    def chosen() -> Tensor:
        return to_device(torch.rand(count, 1, 1, 1, 1, generator=rng) < 0.5, device)

    x = to_unit(edited)
    pace = (1 + draw(1, 1, 1, 1)).abs() * 2
    curved = torch.sin(pace * x + 2 * draw(1, 1, 1, 1))
    x = torch.where(chosen(), curved, x)
    mixed = torch.einsum("bij,bmjhw->bmihw", draw(3, 3), x) + 0.3 * draw(1, 3, 1, 1)
    x = torch.where(chosen(), mixed.tanh(), x)
    cover = F.interpolate(draw(1, VEIL, VEIL), edited.shape[-2:], mode="bicubic")
    cover = torch.sigmoid(4 * cover)[:, None]
    x = torch.where(chosen(), torch.lerp(x, draw(1, 3, 1, 1).tanh(), cover), x)
    return to_uint8(x)
