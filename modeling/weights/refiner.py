"""The refiner: from an adapter's blocks and the gradient on a few pairs to better blocks.

Learned steps between the prediction and the fine-tune, each w ← w + R(w, g, text, k): the weight
generator sees a text alone, R also sees what the image loss says on example pairs. Not in the
paper; a form of iterative amortised inference (arXiv 2510.11471), here over weight blocks, so that
it holds for every network, size and rank.

R works in the basis of the collection's gradients (gradient_basis.py). Fresh, it takes steps of
Adam's kind there, each coordinate by the sign of its gradient; what is learned is the length of
each coordinate's step, and a transformer's correction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modeling.weights.block_transformer import (
    BlockLayer,
    BlockLinear,
    SinusoidalEmbedding,
    TextContext,
)
from modeling.weights.gradient_basis import GradientBasis
from modeling.weights.interface import GeneratorError, TextBatch

WEIGHTS_FILE, CONFIG_FILE = "refiner.safetensors", "refiner.json"

CLAMP = 5.0
"""Largest gradient that R is shown, in root mean squares of its block."""
SOFT = 0.3
"""Gradient, in root mean squares of its block, from which a step has half its full length."""
LENGTH = 0.1
"""Of a fresh refiner's steps, in deviations of a weight over the collection."""
PACE = 10.0
"""How much faster the lengths are learned than the transformer."""
SCALARS = 3
"""A block's: the logarithms of its gradient's size, of the whole gradient's, and of the loss."""


@dataclass(frozen=True)
class RefinerConfig:
    """Everything needed to build a refiner."""

    block_size: int
    n_blocks: int
    text_dim: int
    width: int = 128
    depth: int = 3
    heads: int = 4
    iterations: int = 4
    """Learned steps it tells apart; later ones are like the last."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise GeneratorError(f"refiner: {field.name} must be at least 1")
        if self.width % self.heads:
            raise GeneratorError(f"refiner: heads ({self.heads}) must divide width {self.width}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RefinerConfig:
        """The inverse of dataclasses.asdict; unknown or missing keys raise GeneratorError."""
        try:
            return cls(**values)
        except TypeError as error:
            raise GeneratorError(f"bad refiner config: {error}") from error


class Refiner(nn.Module):
    """R of the module's docstring; the basis is not part of its state."""

    vectors: Tensor

    def __init__(self, config: RefinerConfig, basis: GradientBasis) -> None:
        super().__init__()
        self.config = config
        n, b, width = config.n_blocks, config.block_size, config.width
        if basis.vectors.shape[:2] != (n, b):
            raise GeneratorError(f"a refiner of [{n}, {b}] blocks, a basis of others")
        self.register_buffer("vectors", basis.vectors.clone(), persistent=False)
        self.project_in = BlockLinear(n, 2 * b + SCALARS, width)
        self.position = nn.Parameter(torch.randn(n, width) * 0.02)
        self.iteration = SinusoidalEmbedding(width)
        self.pooled = nn.Sequential(
            nn.LayerNorm(config.text_dim), nn.Linear(config.text_dim, width)
        )
        self.pairs = nn.Linear(1, width)
        self.text = TextContext(config.text_dim, width)
        self.layers = nn.ModuleList(
            BlockLayer(width, config.heads, 0.0) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.heads_out = BlockLinear(n, width, b, zero=True)
        self.lengths = nn.Parameter(torch.full((config.iterations, n, b), LENGTH / PACE))

    def forward(
        self,
        blocks: Tensor,
        gradient: Tensor,
        loss: Tensor,
        k: int,
        pairs: int,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor,
    ) -> Tensor:
        """The change of the blocks.

        Args:
            blocks: [B, N, b], normalised.
            gradient: [B, N, b] of the image loss by them.
            loss: [B], that loss.
            k: how many learned steps were taken before.
            pairs: on how many pairs the gradient was taken.
            tokens, mask, pooled: the text, as of WeightGenerator.forward.

        Returns:
            [B, N, b], to be added.
        """
        n, b = self.config.n_blocks, self.config.block_size
        if blocks.shape[1:] != (n, b):
            raise GeneratorError(f"blocks {list(blocks.shape)}, this refiner has [B, {n}, {b}]")
        k = min(k, self.config.iterations - 1)
        tiny = torch.finfo(gradient.dtype).tiny ** 0.5
        gradient = torch.einsum("bnc,ncd->bnd", gradient, self.vectors)
        whole = gradient.square().mean(dim=(1, 2), keepdim=True).sqrt() + tiny
        own = gradient.square().mean(dim=2, keepdim=True).sqrt() + tiny
        shown = (gradient / own).clamp(-CLAMP, CLAMP)
        scalars = torch.cat(
            [
                (own / whole).log().clamp_min(-CLAMP),
                whole.log().expand_as(own) / CLAMP,
                loss.clamp_min(tiny).log()[:, None, None].expand_as(own),
            ],
            dim=-1,
        )
        x = self.project_in(torch.cat([blocks, shown, scalars], dim=-1)) + self.position
        count = self.pairs(torch.full_like(loss[:, None], float(pairs)).log())
        times = torch.full((len(blocks),), k, device=blocks.device)
        condition = F.silu(self.iteration(times) + self.pooled(pooled) + count)
        context, visible = self.text(tokens, mask)
        for layer in self.layers:
            x = layer(x, condition, context, visible)
        step = PACE * self.lengths[k] * gradient / (gradient.abs() + SOFT * own)
        out = self.heads_out(self.norm_out(x)) - step
        return torch.einsum("bnd,ncd->bnc", out, self.vectors)


def change(
    refiner: nn.Module,
    blocks: Tensor,
    gradient: Tensor,
    loss: Tensor,
    k: int,
    pairs: int,
    text: TextBatch,
) -> Tensor:
    """One learned step's change; `refiner` may be wrapped by DistributedDataParallel."""
    return refiner(blocks, gradient, loss, k, pairs, *text)


def to_files(weights: Mapping[str, Tensor], config: RefinerConfig) -> dict[str, bytes]:
    """The files of a trained refiner by name; weights: its state, or an average of it."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    text = json.dumps({"config": dataclasses.asdict(config)}, indent=2)
    return {WEIGHTS_FILE: save(tensors), CONFIG_FILE: text.encode()}


def from_files(files: Mapping[str, bytes], basis: GradientBasis) -> Refiner:
    """Read `to_files` back, on the CPU, in eval mode; GeneratorError if a file is broken."""
    try:
        config = RefinerConfig.from_dict(json.loads(files[CONFIG_FILE])["config"])
        model = Refiner(config, basis)
        model.load_state_dict(load(files[WEIGHTS_FILE]))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise GeneratorError(f"not a readable refiner: {error}") from error
    return model.eval()
