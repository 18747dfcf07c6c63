"""The 9-block ResNet generator of pix2pix and CycleGAN (Johnson et al. 2016; Isola et al. 2017).

c7s1-64, d128, d256, nine ResNet blocks, u128, u64, c7s1-3, with reflection padding: 11.4 M weights
at width 64. The published one enlarges by transposed convolutions; with `transposed=False` it
resizes and convolves, since PEFT has no LoRA for transposed convolutions.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNetGeneratorError(ValueError):
    """A shape, or an image, that does not fit."""


@dataclass(frozen=True)
class ResNetGeneratorConfig:
    """`width` channels at full resolution; `downs` halvings, each of which doubles them."""

    width: int = 64
    blocks: int = 9
    downs: int = 2
    dropout: float = 0.0
    """Within the blocks; pix2pix's z (Eq. 4)."""
    transposed: bool = True

    def __post_init__(self) -> None:
        if min(self.width, self.blocks) < 1 or self.downs < 0 or not 0 <= self.dropout < 1:
            raise ResNetGeneratorError(
                f"width and blocks start at 1, downs at 0, dropout is in [0, 1): {self}"
            )

    def to_dict(self) -> dict[str, object]:
        """The fields, as JSON can hold them; PEFT asks a model's config for it, too."""
        return asdict(self)


class ReflectConv(nn.Module):
    """Reflection padding, convolution, BatchNorm, optional ReLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out)
        self.relu, self.padding = relu, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.pad(x, (self.padding,) * 4, mode="reflect")))
        return F.relu(x) if self.relu else x


class Block(nn.Module):
    """x + conv(dropout(conv(x)))."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = ReflectConv(channels, channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.second = ReflectConv(channels, channels, 3, relu=False)

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
            self.layer = ReflectConv(c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.transposed is not None:
            return F.relu(self.norm(self.transposed(x)))
        return self.layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResNetGenerator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] → [B, 3, H, W] in (-1, 1).

    H and W must be multiples of 2^downs, and at least 4 · 2^downs (reflection needs room), or
    ResNetGeneratorError is raised. Weights start at N(0, 0.02²), as published.
    """

    def __init__(self, config: ResNetGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.downs + 1)]
        self.stem = ReflectConv(3, widths[0], 7)
        self.encoder = nn.ModuleList(
            ReflectConv(a, b, 3, stride=2) for a, b in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(Block(widths[-1], config.dropout) for _ in range(config.blocks))
        self.decoder = nn.ModuleList(
            Enlarge(b, a, config.transposed) for a, b in reversed(list(itertools.pairwise(widths)))
        )
        self.head = nn.Conv2d(widths[0], 3, 7)
        self.apply(_published_start)

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""
        return 2**self.config.downs

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        m = self.multiple
        if height % m or width % m or min(height, width) < 4 * m:
            raise ResNetGeneratorError(
                f"images are {height}×{width}: their sides must be multiples of {m},"
                f" {4 * m} or more"
            )
        y = self.stem(x)
        for layer in (*self.encoder, *self.blocks, *self.decoder):
            y = layer(y)
        return torch.tanh(self.head(F.pad(y, (3,) * 4, mode="reflect")))


def _published_start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
