"""The coordinates in which adapters are optimised: the LoRA factors themselves, or others.

Adam scales each coordinate by itself, so that the same steps in other coordinates are another
optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from modeling.targets.lora import Adapter


class Coordinates(Protocol):
    """A linear, invertible map of stacked adapters."""

    def of(self, adapters: Mapping[str, Tensor]) -> Adapter:
        """Tensors [G, …] of G adapters → their coordinates, G in front of each."""
        ...

    def adapters(self, values: Mapping[str, Tensor]) -> Adapter:
        """The inverse of `of`, differentiable."""
        ...


class Factors:
    """The factors A and B and the affines as they are, as published."""

    def of(self, adapters: Mapping[str, Tensor]) -> Adapter:
        return dict(adapters)

    def adapters(self, values: Mapping[str, Tensor]) -> Adapter:
        return dict(values)


FACTORS = Factors()
