"""The losses of a training's steps, which stay on the device until somebody reads them.

A GPU that is asked for a number finishes all that was given to it first, and has nothing to do
until it is given more. So steps return tensors, and that every loss is finite is asked for several
steps at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import isfinite

import torch
from torch import Tensor

TOGETHER = {"cpu": 1, "cuda": 25}
"""Steps whose losses are checked at once: on a CPU a number costs nothing."""
RECENT = 50
"""Steps of which the means are told."""


class Losses:
    """Those of one training, `what`; the newest are kept for their means."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.unchecked: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor) -> None:
        """The loss of step `step`, from 1; FloatingPointError when one of several is not finite."""
        self.unchecked.append((step, loss.detach()))
        if len(self.unchecked) >= TOGETHER.get(loss.device.type, 1):
            self.check()

    def check(self) -> None:
        """All that were added; FloatingPointError names the first step that is not finite."""
        if not self.unchecked:
            return
        steps, losses = zip(*self.unchecked, strict=True)
        self.unchecked = []
        for step, value in zip(steps, torch.stack(losses).tolist(), strict=True):
            if not isfinite(value):
                raise FloatingPointError(f"{self.what}: loss is {value} at step {step}")


class RecentMeans:
    """Means of the last RECENT values of each name."""

    def __init__(self) -> None:
        self.values: dict[str, deque[Tensor]] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            self.values.setdefault(name, deque(maxlen=RECENT)).append(value)

    def read(self) -> dict[str, float]:
        return {
            k: torch.stack(list(v)).double().mean().item() for k, v in list(self.values.items())
        }

    def __str__(self) -> str:
        return ", ".join(f"{name} {mean:.3f}" for name, mean in self.read().items())
