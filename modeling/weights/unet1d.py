"""The paper's weight generator (Sec. 4.3, Fig. 2): a text-conditioned 1-D UNet over one block.

1-D ResBlocks and 1-D transformer blocks (self-attention, cross-attention to the text tokens,
feed-forward) on a block's b weights seen as a signal of one channel. emb = emb_n + emb_t, block
index plus time step, enters every ResBlock. The paper gives no sizes; they are GeneratorConfig's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.weights.block_transformer import (
    Attention,
    FeedForward,
    SinusoidalEmbedding,
    TextContext,
)
from modeling.weights.interface import GeneratorConfig, WeightGenerator


class ResBlock1d(nn.Module):
    """GroupNorm, SiLU, convolution, twice; `emb` scales and shifts in between."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(in_channels, 8), in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(math.gcd(out_channels, 8), out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv1d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x [M, in, P], emb [M, emb_dim] → [M, out, P]."""
        scale, shift = self.emb(F.silu(emb))[..., None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class TransformerBlock1d(nn.Module):
    """Self-attention along the signal, cross-attention to the text, feed-forward."""

    def __init__(self, channels: int, heads: int, context_dim: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, heads)
        self.cross_attention = Attention(channels, heads, context_dim)
        self.feed_forward = FeedForward(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Map x [B·K, C, P], context [B, L, D], mask [B, L] → [B·K, C, P]."""
        h = x.transpose(1, 2)
        h = h + self.dropout(self.self_attention(self.norms[0](h)))
        # the K blocks of a concept share its text: attend from all their places at once, which is
        # the same sum as repeating the text K times
        q = self.norms[1](h).reshape(context.shape[0], -1, h.shape[-1])
        h = h + self.dropout(self.cross_attention(q, context, mask)).reshape(h.shape)
        h = h + self.dropout(self.feed_forward(self.norms[2](h)))
        return h.transpose(1, 2)


class Stage(nn.Module):
    """A ResBlock and, where there is attention, a transformer block."""

    def __init__(
        self, in_channels: int, out_channels: int, config: GeneratorConfig, *, attention: bool
    ) -> None:
        super().__init__()
        self.res = ResBlock1d(in_channels, out_channels, config.width, config.dropout)
        self.attention = (
            TransformerBlock1d(out_channels, config.heads, config.width, config.dropout)
            if attention
            else None
        )

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        x = self.res(x, emb)
        return x if self.attention is None else self.attention(x, context, mask)


class UNet1d(WeightGenerator):
    """The paper's weight generator; see WeightGenerator.forward. Each block is denoised alone.

    `config.channels` are the channels of each resolution (halved between them), `config.depth` the
    stages per resolution, `config.width` the size of emb and of the projected text. Transformer
    blocks start at resolution `config.attention_from` (0 = the full one) and are always in the
    middle. The pooled text is not used: the paper's text enters by cross-attention alone.

    `config.place_embedding` is ours: convolution and attention alone cannot tell where in a block
    they are, and near pure noise the input does not say either. Without it a synthetic text →
    blocks map was not learnt at all. False is the paper's text taken literally.

    `config.fold` is ours, too: F neighbouring weights become F channels of one place, as images are
    cut into patches. The full resolution costs most and says least.
    """

    joint = False

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        channels = config.channels
        self.stride = 2 ** (len(channels) - 1)
        if config.block_conditioning != "none":
            self.block_index = SinusoidalEmbedding(config.width)
        self.time = SinusoidalEmbedding(config.width)
        self.text = TextContext(config.text_dim, config.width)
        inputs = 2 * config.fold if config.sequential else config.fold
        self.conv_in = nn.Conv1d(inputs, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        if config.place_embedding:
            self.place = nn.Parameter(torch.randn(channels[0], config.block_size // config.fold))
        here, skips = channels[0], []
        for level, c in enumerate(channels):
            if level:
                self.shrink.append(nn.Conv1d(here, here, 3, stride=2, padding=1))
            for _ in range(config.depth):
                attention = level >= config.attention_from
                self.down.append(Stage(here, c, config, attention=attention))
                skips.append(c)
                here = c
        self.middle = nn.ModuleList(
            [
                Stage(here, here, config, attention=True),
                Stage(here, here, config, attention=False),
            ]
        )
        for level, c in reversed(list(enumerate(channels))):
            for _ in range(config.depth):
                attention = level >= config.attention_from
                self.up.append(Stage(here + skips.pop(), c, config, attention=attention))
                here = c
            if level:
                self.grow.append(nn.Conv1d(here, here, 3, padding=1))
        self.norm_out = nn.GroupNorm(math.gcd(here, 8), here)
        self.conv_out = nn.Conv1d(here, config.fold, 3, padding=1)
        for p in self.conv_out.parameters():
            nn.init.zeros_(p)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        blocks: Tensor,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor,
        previous: Tensor | None = None,
    ) -> Tensor:
        self.check_inputs(noisy, blocks, previous)
        fold, depth = self.config.fold, self.config.depth
        size = noisy.shape[-1] // fold
        context, visible = self.text(tokens, mask)
        emb = self.time(t)[:, None].expand(-1, len(blocks), -1)
        if self.config.block_conditioning != "none":
            emb = emb + self.block_index(blocks)[None]
        emb = emb.flatten(0, 1)
        known = [noisy] if previous is None else [noisy, previous]
        x = torch.cat([k.reshape(-1, size, fold).transpose(1, 2) for k in known], dim=1)
        x = self.conv_in(x)
        if self.config.place_embedding:
            x = x + self.place
        x = F.pad(x, (0, -size % self.stride))
        skips = []
        for i, stage in enumerate(self.down):
            if i and i % depth == 0:
                x = self.shrink[i // depth - 1](x)
            x = stage(x, emb, context, visible)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, emb, context, visible)
        for i, stage in enumerate(self.up):
            if i and i % depth == 0:
                x = self.grow[i // depth - 1](F.interpolate(x, scale_factor=2.0))
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, context, visible)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x[..., :size].transpose(1, 2).reshape(noisy.shape)
