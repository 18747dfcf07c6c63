"""Tiny weight generators of both kinds, and texts and noise for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.weights.interface import GeneratorConfig, TextBatch, WeightGenerator
from modeling.weights.weight_generator import build

TEXT_DIM = 12
TRANSFORMER: dict[str, Any] = {
    "kind": "transformer",
    "block_size": 16,
    "n_blocks": 6,
    "text_dim": TEXT_DIM,
    "width": 32,
    "depth": 2,
    "heads": 4,
}
UNET: dict[str, Any] = TRANSFORMER | {"kind": "unet", "depth": 1, "channels": (16, 32)}
BOTH = pytest.mark.parametrize("options", [TRANSFORMER, UNET], ids=["transformer", "unet"])


def make(options: dict[str, Any], *, awake: bool = True, **changes: Any) -> WeightGenerator:
    """A seeded model; `awake` moves the zero-initialised parts so that its output is not zero."""
    torch.manual_seed(0)
    model = build(GeneratorConfig(**(options | changes))).eval()
    if awake:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.1)
    return model


def text_of(concepts: int, length: int = 5, seed: int = 0) -> TextBatch:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(concepts, length, TEXT_DIM, generator=g)
    mask = torch.arange(length) < torch.randint(1, length + 1, (concepts, 1), generator=g)
    return TextBatch(tokens, mask, torch.randn(concepts, TEXT_DIM, generator=g))


def inputs(model: WeightGenerator, concepts: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    config = model.config
    noisy = torch.randn(concepts, config.n_blocks, config.block_size, generator=g)
    t = torch.randint(0, config.steps, (concepts,), generator=g)
    return noisy, t, torch.arange(config.n_blocks)
