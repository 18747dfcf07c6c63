"""The 9-block ResNet generator of pix2pix and CycleGAN (Johnson et al. 2016; Isola et al. 2017).

c7s1-64, d128, d256, nine ResNet blocks, u128, u64, c7s1-3, with reflection padding: 11.4 M weights
at width 64. The published one enlarges by transposed convolutions; with `transposed=False` it
resizes and convolves, since PEFT has no LoRA for transposed convolutions. So it is the target
family `resnet`: unconditional, what it draws is decided by its weights alone.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.targets.conv_norm import ConvNorm
from modeling.targets.network import TargetNetwork
from modeling.targets.shapes import ResNetGeneratorConfig


class Block(nn.Module):
    """x + conv(dropout(conv(x)))."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3, reflect=True)
        self.dropout = nn.Dropout(dropout)
        self.second = ConvNorm(channels, channels, 3, relu=False, reflect=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(self.first(x)))


class Enlarge(nn.Module):
    """Twice the resolution, `c_out` channels: transposed convolution, or resize + convolution."""

    def __init__(self, c_in: int, c_out: int, transposed: bool) -> None:
        super().__init__()
        self.transposed: nn.Module | None = None
        if transposed:
            self.transposed = nn.ConvTranspose2d(c_in, c_out, 3, 2, 1, output_padding=1, bias=False)
            self.norm = nn.BatchNorm2d(c_out)
        else:
            self.layer = ConvNorm(c_in, c_out, 3, reflect=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.transposed is not None:
            return F.relu(self.norm(self.transposed(x)))
        return self.layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResNetGenerator(TargetNetwork):
    """Images [B, 3, H, W] in [-1, 1] → [B, 3, H, W], in (-1, 1) without the global skip.

    Tokens and mask are taken, as every target does, and ignored: it reads no prompt. H and W must
    be multiples of 2^downs, and long enough for reflection, or TargetError is raised. Weights
    start at N(0, 0.02²), as published; with the global skip, whose change starts at zero, it starts
    as the identity.
    """

    config: ResNetGeneratorConfig

    def __init__(self, config: ResNetGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.downs + 1)]
        self.stem = ConvNorm(3, widths[0], config.edge_kernel, reflect=True)
        self.encoder = nn.ModuleList(
            ConvNorm(a, b, 3, stride=2, reflect=True) for a, b in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(Block(widths[-1], config.dropout) for _ in range(config.blocks))
        self.decoder = nn.ModuleList(
            Enlarge(b, a, config.transposed) for a, b in reversed(list(itertools.pairwise(widths)))
        )
        self.head = nn.Conv2d(widths[0], 3, config.edge_kernel)
        self.apply(_published_start)
        if config.global_skip:
            nn.init.zeros_(self.head.weight)

    def forward(
        self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        self.check_sides(x)
        y = self.stem(x)
        for layer in (*self.encoder, *self.blocks, *self.decoder):
            y = layer(y)
        border = self.config.edge_kernel // 2
        y = self.head(F.pad(y, (border,) * 4, mode="reflect"))
        return x + y if self.config.global_skip else torch.tanh(y)


def _published_start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
