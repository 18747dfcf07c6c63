"""What a network must offer to be adapted: the interface of the target families.

Adapters, codec, weight generators and evaluation know a target by this alone. LoRA goes on all its
convolutions and linear layers, in the order in which `named_modules` lists them (that of the
forward pass, by which the codec groups weights); its norms' affines are trained whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from modeling.targets.conv_norm import ConvNorm
from modeling.targets.shapes import TargetConfig, TargetError


class TargetNetwork(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1], tokens [B or 1, L, D], mask [B or 1, L] → [B, 3, H, W].

    The mask is True where a token is, False where padding is. An unconditional network
    (`config.text_dim` is 0) takes tokens and mask and ignores them: what it draws is decided by its
    weights alone. H and W must fit `config` (`check_sides`). Outputs need not be clamped.
    """

    config: TargetConfig

    @abstractmethod
    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor: ...

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""
        return self.config.multiple

    def check_sides(self, x: Tensor) -> None:
        """Raise TargetError unless the images' sides are multiples of `multiple`, large enough."""
        height, width = x.shape[-2:]
        multiple, least = self.config.multiple, self.config.least_side
        if height % multiple or width % multiple or min(height, width) < least:
            raise TargetError(
                f"images are {height}×{width}: their sides must be multiples of {multiple}"
                + (f", {least} or more" if least > multiple else "")
            )

    def freeze_statistics(self) -> Self:
        """Turn every BatchNorm into a ChannelAffine, in place; eval() keeps the same function.

        TargetError if one stands outside a ConvNorm, into whose convolution it would be folded.
        """
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.freeze_statistics()
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                raise TargetError(f"{name}: only the statistics of a ConvNorm can be frozen")
        return self
