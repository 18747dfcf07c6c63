"""The translator: E²GAN's generator, the target family `e2gan`.

Layout (PAPER_NOTES, E²GAN Sec. 3): down-sampling convolutions, two ResNet blocks, a transformer
block one resolution lower with self-attention and cross-attention to the prompt's tokens, one
ResNet block, up-sampling convolutions. PEFT has no LoRA for transposed convolutions, so
up-sampling is resize + convolution.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.targets.conv_norm import ConvNorm
from modeling.targets.network import TargetNetwork
from modeling.targets.shapes import TranslatorConfig


class ResNetBlock(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.second = ConvNorm(channels, channels, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(self.first(x)))


class Attention(nn.Module):
    """Multi-head attention of x [B, M, C] over a context [B, L, D], or one of each B / G of x."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(context_dim, channels, bias=False)
        self.value = nn.Linear(context_dim, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

        q, k, v = split(self.query(x)), split(self.key(context)), split(self.value(context))
        k, v = _for_each(k, len(q)), _for_each(v, len(q))
        # spelled out: the fused kernel has no batching rule for the concept axis
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if mask is not None:
            seen = _for_each(mask[:, None, None], len(q))
            scores = scores.masked_fill(~seen, float("-inf"))
        y = scores.softmax(-1) @ v
        return self.out(y.transpose(-3, -2).flatten(-2))


def _for_each(x: Tensor, count: int) -> Tensor:
    """[G, …] → [count, …], each of G for its share."""
    if x.shape[0] == 1:
        return x.expand(count, *x.shape[1:])
    return x.repeat_interleave(count // x.shape[0], 0) if x.shape[0] < count else x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward, each with a pre-LayerNorm."""

    def __init__(
        self, channels: int, text_dim: int, heads: int, feed_forward: int, gated: bool
    ) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, channels, heads)
        self.norm_cross = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels, text_dim, heads)
        self.norm_mlp = nn.LayerNorm(channels)
        self.gated = gated
        inner = feed_forward * channels
        self.expand = nn.Linear(channels, 2 * inner if gated else inner)
        self.contract = nn.Linear(inner, channels)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = x.flatten(-2).transpose(-2, -1)
        own = self.norm_self(y)
        y = y + self.self_attention(own, own)
        y = y + self.cross_attention(self.norm_cross(y), tokens, mask)
        wide = self.expand(self.norm_mlp(y))
        if self.gated:
            wide, gate = wide.chunk(2, dim=-1)
            wide = wide * F.gelu(gate)
        else:
            wide = F.gelu(wide)
        y = y + self.contract(wide)
        return y.transpose(-2, -1).unflatten(-1, (height, width))


class Translator(TargetNetwork):
    """Images [B, 3, H, W] in [-1, 1], tokens [B or 1, L, D], mask [B or 1, L] → [B, 3, H, W].

    The mask is True where a token is, False where padding is. H and W must be multiples of
    2^(downs + 1), or TargetError is raised. The output is not clamped: clamp when a picture is
    made, so that the training loss keeps its gradient.
    """

    config: TranslatorConfig

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.downs + 1)]
        inner = widths[-1]
        edge = config.edge_kernel
        self.stem = ConvNorm(3, widths[0], edge)
        self.encoder = nn.ModuleList(
            ConvNorm(a, b, 3, stride=2) for a, b in itertools.pairwise(widths)
        )
        self.block1 = ResNetBlock(inner, config.dropout)
        self.block2 = ResNetBlock(inner, config.dropout)
        self.down = ConvNorm(inner, inner, 3, stride=2)
        self.transformer = TransformerBlock(
            inner, config.text_dim, config.heads, config.feed_forward, config.gated
        )
        self.up = ConvNorm(inner, inner, 3)
        self.block3 = ResNetBlock(inner, config.dropout)
        self.decoder = nn.ModuleList(
            ConvNorm(b, a, 3) for a, b in reversed(list(itertools.pairwise(widths)))
        )
        self.head = nn.Conv2d(widths[0], 3, edge, 1, edge // 2)
        if config.global_skip:
            # start as the identity
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        def larger(y: Tensor) -> Tensor:
            return F.interpolate(y, scale_factor=2.0, mode="nearest")

        self.check_sides(x)
        y = self.stem(x)
        skips = [y]
        for layer in self.encoder:
            y = layer(y)
            skips.append(y)
        y = self.block2(self.block1(y))
        long = self.config.long_skips
        inner = y
        y = self.up(larger(self.transformer(self.down(y), tokens, mask)))
        y = self.block3(y + inner if long else y)
        for layer, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            y = layer(larger(y))
            y = y + skip if long else y
        change = self.head(y)
        return x + change if self.config.global_skip else torch.tanh(change)
