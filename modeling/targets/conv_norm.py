"""Convolution and BatchNorm, whose statistics become part of the frozen weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """Per-channel scale and shift of [B, C, H, W]: a BatchNorm once its statistics are frozen."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ConvNorm(nn.Module):
    """Convolution, normalisation, optional ReLU; the border is of zeros or reflected."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        relu: bool = True,
        reflect: bool = False,
    ) -> None:
        super().__init__()
        border = kernel // 2
        # outside the convolution: PEFT's LoRA of a convolution knows padding by zeros only
        self.reflected = border if reflect else 0
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, 0 if reflect else border, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if self.reflected:
            x = F.pad(x, (self.reflected,) * 4, mode="reflect")
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x

    def freeze_statistics(self) -> None:
        """Replace BatchNorm by an affine with the same function at evaluation.

        1/σ goes into the convolution, so that the affine keeps the scale it was trained at and
        the layer in front of it has unit-variance outputs; nothing is left that could move
        without being part of an adapter.
        """
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None and norm.running_var is not None
        inverse_std = torch.rsqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            self.conv.weight.mul_(inverse_std[:, None, None, None])
        self.norm = ChannelAffine(
            norm.weight, norm.bias - norm.weight * norm.running_mean * inverse_std
        )
