"""Conditional PatchGAN (pix2pix, Isola et al. 2017): judges patches of (source, edited) pairs."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.targets.shapes import DiscriminatorConfig


class PatchDiscriminator(nn.Module):
    """(source, edited) [B, 3, H, W] each → logits [B, 1, h, w]; no running statistics.

    With `norm="batch"` it is pix2pix's published one, its N(0, 0.02²) start included: 2.77 M
    weights at width 64.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        if config.norm not in ("instance", "batch"):
            raise ValueError(f"norm={config.norm!r}: must be instance or batch")
        self.config = config
        channels = [6] + [config.width * min(2**i, 8) for i in range(config.layers + 1)]
        batch = config.norm == "batch"
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, 2 if i < config.layers else 1, 1, bias=not (i and batch))
            for i, (a, b) in enumerate(itertools.pairwise(channels))
        )
        self.head = nn.Conv2d(channels[-1], 1, 4, 1, 1)
        self.norms = nn.ModuleList()
        if batch:
            self.norms.extend(nn.BatchNorm2d(c, track_running_stats=False) for c in channels[2:])
            self.apply(_published_start)

    def forward(self, source: Tensor, edited: Tensor) -> Tensor:
        y = torch.cat([source, edited], dim=1)
        for i, conv in enumerate(self.convs):
            y = conv(y)
            if i:
                y = self.norms[i - 1](y) if len(self.norms) else F.instance_norm(y)
            y = F.leaky_relu(y, 0.2)
        return self.head(y)


def _published_start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of the two terms of Eq. (4) in log D, from logits of any shape."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def adversarial_loss(fake: Tensor) -> Tensor:
    """Non-saturating form of the last term of Eq. (4): minimise -log D(x, G(x))."""
    return F.softplus(-fake).mean()
