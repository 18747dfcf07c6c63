"""Co-Mod-GAN (Zhao et al., ICLR 2021) for paired translation: a StyleGAN2 that sees the source.

An encoder reads the source image. Its global code, beside the style of a random z, modulates every
layer of the synthesis network (co-modulation, Eq. 3 there), and its features are added at every
resolution. The discriminator is StyleGAN2's residual one, on (source, edited) pairs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeling.baselines.stylegan import (
    EqualConv,
    EqualLinear,
    Mapping,
    ResidualDown,
    StyleConv,
    ToRgb,
    minibatch_deviation,
    upsample,
)


class CoModGanError(ValueError):
    """A size, or an image, that does not fit."""


@dataclass(frozen=True)
class CoModGanConfig:
    """Images of `size` pixels a side, a power of two from 16 up.

    Layers at a side of s have min(channel_base / s, channel_max) channels. The defaults are the
    published ones; at 256 pixels the generator then has 79.2 M weights.
    """

    size: int = 256
    channel_base: int = 32768
    channel_max: int = 512
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    dropout: float = 0.5
    """Of the encoder's global code, while training."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.size & (self.size - 1):
            raise CoModGanError(f"size={self.size}: must be a power of two, 16 or more")
        if self.channel_base < self.size or self.channel_max < 1:
            raise CoModGanError(
                f"channel_base={self.channel_base}: must be at least size={self.size},"
                " and channel_max at least 1"
            )
        if min(self.z_dim, self.w_dim) < 1 or self.mapping_layers < 1 or not 0 <= self.dropout < 1:
            raise CoModGanError(
                "z_dim, w_dim and mapping_layers start at 1, dropout is in [0, 1):"
                f" {self.z_dim}, {self.w_dim}, {self.mapping_layers}, {self.dropout}"
            )

    def channels(self, side: int) -> int:
        return min(self.channel_base // side, self.channel_max)

    @property
    def sides(self) -> list[int]:
        """4, 8, … size."""
        return [4 << i for i in range(self.size.bit_length() - 2)]


class Encoder(nn.Module):
    """Source [B, 3, H, W] → features by side (8 … size, and 4) and the global code [B, G]."""

    def __init__(self, config: CoModGanConfig) -> None:
        super().__init__()
        sides = config.sides[::-1]
        self.sides = sides
        self.stem = EqualConv(3, config.channels(config.size), 1)
        self.convs = nn.ModuleList(
            EqualConv(config.channels(s), config.channels(s), 3) for s in sides
        )
        self.downs = nn.ModuleList(
            EqualConv(config.channels(a), config.channels(b), 3, down=True)
            for a, b in itertools.pairwise(sides)
        )
        width = config.channels(4)
        self.code = EqualLinear(width * 16, width * 2, active=True)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, source: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        features: dict[int, Tensor] = {}
        x = self.stem(source)
        for i, (side, conv) in enumerate(zip(self.sides, self.convs, strict=True)):
            features[side] = conv(x)
            if i < len(self.downs):
                x = self.downs[i](features[side])
        return features, self.dropout(self.code(features[4].flatten(1)))


class Block(nn.Module):
    """Synthesis from a side of `side` / 2 to `side`: up, add the encoder's features, convolve."""

    def __init__(self, config: CoModGanConfig, side: int, style_dim: int) -> None:
        super().__init__()
        c_in, c_out = config.channels(side // 2), config.channels(side)
        self.up = StyleConv(c_in, c_out, style_dim, side, up=True)
        self.conv = StyleConv(c_out, c_out, style_dim, side)
        self.rgb = ToRgb(c_out, style_dim)

    def forward(
        self, x: Tensor, image: Tensor, features: Tensor, style: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self.conv(self.up(x, style) + features, style)
        return x, upsample(image) + self.rgb(x, style)


class CoModGenerator(nn.Module):
    """(source [B, 3, H, W] in [-1, 1], z [B, z_dim]) → image [B, 3, H, W], not clamped.

    H and W must be `config.size`, or CoModGanError is raised. In evaluation mode the same input
    gives the same image: no dropout, and fixed noise.
    """

    def __init__(self, config: CoModGanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels(4)
        style_dim = config.w_dim + 2 * width
        self.mapping = Mapping(config.z_dim, config.w_dim, config.mapping_layers)
        self.encoder = Encoder(config)
        self.start = EqualLinear(2 * width, width * 16, active=True)
        self.first = StyleConv(width, width, style_dim, 4)
        self.rgb = ToRgb(width, style_dim)
        self.blocks = nn.ModuleList(Block(config, s, style_dim) for s in config.sides[1:])

    def forward(self, source: Tensor, z: Tensor) -> Tensor:
        return self.synthesise(source, self.mapping(z))

    def synthesise(self, source: Tensor, w: Tensor) -> Tensor:
        """The image of the style w [B, w_dim]."""
        size = self.config.size
        if source.shape[-2:] != (size, size):
            raise CoModGanError(
                f"images are {source.shape[-2]}×{source.shape[-1]}: they must be {size}×{size}"
            )
        features, code = self.encoder(source)
        style = torch.cat([w, code], dim=1)
        x = self.start(code).view(-1, self.config.channels(4), 4, 4) + features[4]
        x = self.first(x, style)
        image = self.rgb(x, style)
        for side, block in zip(self.config.sides[1:], self.blocks, strict=True):
            x, image = block(x, image, features[side], style)
        return image


class StyleGanDiscriminator(nn.Module):
    """(source, edited) [B, 3, H, W] each → logits [B]; of the configuration, size and channels."""

    def __init__(self, config: CoModGanConfig) -> None:
        super().__init__()
        sides = config.sides[::-1]
        width = config.channels(4)
        self.stem = EqualConv(6, config.channels(config.size), 1)
        self.blocks = nn.Sequential(
            *(
                ResidualDown(config.channels(a), config.channels(b))
                for a, b in itertools.pairwise(sides)
            )
        )
        self.last = EqualConv(width + 1, width, 3)
        self.dense = EqualLinear(width * 16, width, active=True)
        self.head = EqualLinear(width, 1)

    def forward(self, source: Tensor, edited: Tensor) -> Tensor:
        x = self.blocks(self.stem(torch.cat([source, edited], dim=1)))
        x = self.last(minibatch_deviation(x))
        return self.head(self.dense(x.flatten(1)))[:, 0]
