"""The average of a model's weights that is served.

By hand: torch's AveragedModel copies its first update whole, so that the same bits need a count
that starts at 1; it pairs tensors by place, whatever their names; and it keeps a second module.
This is one fused call a step on plain tensors, and its state is what checkpoints hold.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modeling.weights.interface import GeneratorError


class EMA:
    """Exponential moving average of a module's parameters and buffers.

    The decay warms up as (1 + n) / (10 + n) after n updates, so that the random start is forgotten
    at once. `updates` and `average` are the whole state.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise GeneratorError(f"EMA decay must lie in [0, 1), not {decay}")
        self.decay = decay
        self.updates = 0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's current values; its keys must be those of the start."""
        values = model.state_dict()
        self.check_keys(values)
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [k for k, v in values.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[k] for k in floating], [values[k] for k in floating], 1 - keep
        )
        for key in values.keys() - set(floating):
            self.average[key].copy_(values[key])
        self.updates += 1

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's values by the average."""
        self.check_keys(model.state_dict())
        model.load_state_dict(self.average)

    def averaged(self, model: nn.Module) -> nn.Module:
        """A copy of the model that holds the average; the model itself is left alone."""
        twin = copy.deepcopy(model)
        self.copy_to(twin)
        return twin

    def check_keys(self, values: Mapping[str, Tensor]) -> None:
        """Raise GeneratorError unless these are the keys of the average."""
        odd = sorted(values.keys() ^ self.average.keys())
        if odd:
            raise GeneratorError(
                f"EMA and model differ at {odd[0]!r}: use the same module, unwrapped"
            )
