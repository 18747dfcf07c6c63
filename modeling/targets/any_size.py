"""Pictures of any size through a translator that was trained at one.

A convolutional network takes any sides, but what it has learned is of the size of things in its
training pictures: drawn at their own 256 pixels by a base of 32, avatars are more than twice as far
from the true edit (L1 .289) as drawn at 32 and enlarged (.121). So a picture is edited with its
short side as in training and its aspect kept, and what *changed* is enlarged and added to it: its
own detail stays (.096; `python -m tests.bench.sizes`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 8
"""Long side ÷ short side beyond which the long one is squeezed: memory has an end."""


def working_sides(height: int, width: int, size: int, multiple: int) -> tuple[int, int]:
    """(height, width) at which a picture is edited: the short side `size`, both multiples."""
    scale = size / min(height, width)

    def side(pixels: int) -> int:
        longest = max(size, LONGEST * size // multiple * multiple)
        return min(longest, max(size, round(pixels * scale / multiple) * multiple))

    return side(height), side(width)


@torch.no_grad()
def at_own_size(
    translate: Callable[[Tensor], Tensor], picture: Tensor, size: int, multiple: int
) -> Tensor:
    """Edit float [B, 3, H, W] in [-1, 1] → the same shape, in [-1, 1].

    translate: pictures of working sides → edited ones. One of `size` x `size` is edited as it is.
    """
    height, width = picture.shape[-2:]
    sides = working_sides(height, width, size, multiple)
    if sides == (height, width):
        return translate(picture).clamp(-1, 1)
    small = _resized(picture, sides).clamp(-1, 1)
    change = translate(small).clamp(-1, 1) - small
    return (picture + _resized(change, (height, width))).clamp(-1, 1)


def _resized(x: Tensor, sides: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=sides, mode="bicubic", align_corners=False, antialias=True)
