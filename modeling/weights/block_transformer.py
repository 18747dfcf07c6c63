"""Block transformer: denoises all N weight blocks of a concept jointly, as N tokens.

Not in the paper, whose UNet denoises each block alone. Here a block sees the other blocks of its
adapter, so the N pieces of one adapter can agree, and a whole adapter is one forward pass. Time
step and pooled text steer every layer by adaptive layer norm with zero-initialised gates (DiT,
Peebles & Xie 2023); text tokens enter by cross-attention; each block has its own output head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.weights.interface import GeneratorConfig, WeightGenerator


def sinusoidal_encoding(n: Tensor, d: int) -> Tensor:
    """SinEnc(n, d) of Eq. (2): [...] → [..., d] float32, sines at even places, cosines at odd.

    For odd d the last sine has no cosine partner, as i runs to ⌊(d - 1) / 2⌋ and place d does
    not exist.
    """
    i = torch.arange((d + 1) // 2, device=n.device, dtype=torch.float32)
    angle = n.float()[..., None] * torch.exp(-math.log(10000.0) * 2 * i / d)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :d]


class SinusoidalEmbedding(nn.Module):
    """Embedding layers over the sinusoidal encoding of an integer: [...] → [..., width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, n: Tensor) -> Tensor:
        code = sinusoidal_encoding(n, self.width).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(code)))


class Attention(nn.Module):
    """Multi-head attention of x [B, P, width] over itself or a context [B, L, context_dim]."""

    def __init__(self, width: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_dim or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """`mask` [B, L] bool, True = may be attended; every row needs one True."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.key_value(x if context is None else context)
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if mask is None else mask[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(y.transpose(1, 2).flatten(-2))


class FeedForward(nn.Sequential):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class TextContext(nn.Module):
    """Text tokens to attend to, with a learned token before them.

    The learned token lets a block attend to no word at all, and keeps the softmax defined for an
    empty text (all of the mask False).
    """

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        # encoders differ in scale (CLIP's tokens are ~30 times MiniLM's)
        self.norm = nn.LayerNorm(text_dim)
        self.project = nn.Linear(text_dim, width)
        self.nothing = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Context of tokens [B, L, text_dim], mask [B, L]: [B, L + 1, width], [B, L + 1]."""
        words = self.project(self.norm(tokens))
        nothing = self.nothing.to(words.dtype).expand(words.shape[0], 1, -1)
        visible = torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)
        return torch.cat([nothing, words], dim=1), visible


class BlockLinear(nn.Module):
    """A linear layer per block: x [B, N, in] → [B, N, out] with weights [N, in, out]."""

    def __init__(self, n_blocks: int, in_dim: int, out_dim: int, *, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else in_dim**-0.5
        self.weight = nn.Parameter(torch.empty(n_blocks, in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_blocks, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1) + self.bias


class BlockLayer(nn.Module):
    """Self-attention over blocks, cross-attention to the text, feed-forward; gates start shut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feed_forward = FeedForward(width)
        self.modulation = _zeroed(nn.Linear(width, 9 * width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Map x [B, N, width]; condition [B, width], context [B, L, width], mask [B, L]."""
        parts = self.modulation(condition)[:, None].chunk(9, dim=-1)
        shift, scale, gate = parts[0:3], parts[3:6], parts[6:9]
        h = _modulate(self.norms[0](x), shift[0], scale[0])
        x = x + gate[0] * self.dropout(self.self_attention(h))
        h = _modulate(self.norms[1](x), shift[1], scale[1])
        x = x + gate[1] * self.dropout(self.cross_attention(h, context, mask))
        h = _modulate(self.norms[2](x), shift[2], scale[2])
        return x + gate[2] * self.dropout(self.feed_forward(h))


class BlockTransformer(WeightGenerator):
    """The joint weight generator; see the module's docstring and WeightGenerator.forward.

    Needs every block in each call: `blocks` is a permutation of 0 … N - 1, and permuting it
    together with `noisy` permutes the output alike.
    """

    joint = True

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        n, b, width = config.n_blocks, config.block_size, config.width
        self.project_in: nn.Module = (
            BlockLinear(n, b, width) if config.per_block_input else nn.Linear(b, width)
        )
        self.position = nn.Parameter(torch.randn(n, width) * 0.02)
        self.time = SinusoidalEmbedding(width)
        self.pooled = nn.Sequential(
            nn.LayerNorm(config.text_dim), nn.Linear(config.text_dim, width)
        )
        self.text = TextContext(config.text_dim, width)
        self.layers = nn.ModuleList(
            BlockLayer(width, config.heads, config.dropout) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = _zeroed(nn.Linear(width, 2 * width))
        self.heads_out = BlockLinear(n, width, b, zero=True)

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
        # bring the blocks to the order of their weights: far less to move than the weights
        x = self.project_in(noisy[:, blocks.argsort()]) + self.position
        condition = F.silu(self.time(t) + self.pooled(pooled))
        context, visible = self.text(tokens, mask)
        for layer in self.layers:
            x = layer(x, condition, context, visible)
        shift, scale = self.modulation_out(condition)[:, None].chunk(2, dim=-1)
        return self.heads_out(_modulate(self.norm_out(x), shift, scale))[:, blocks]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
