"""A tiny translator, its discriminator and concepts to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.targets.adapter_training import ConceptData
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.shapes import DiscriminatorConfig, TranslatorConfig
from modeling.targets.translator import Translator
from tests.rounding import in_its_precision

TINY: dict[str, Any] = {"width": 8, "text_dim": 6, "heads": 2, "edge_kernel": 3}


def make_translator(dropout: float = 0.0) -> AdaptedTranslator:
    torch.manual_seed(0)
    base = Translator(TranslatorConfig(**TINY, dropout=dropout)).freeze_statistics()
    with torch.no_grad():
        base.head.weight.normal_(0, 0.05)
    in_its_precision(base)
    return AdaptedTranslator(base, 1)


def make_discriminator() -> PatchDiscriminator:
    torch.manual_seed(1)
    network = PatchDiscriminator(DiscriminatorConfig(width=8, layers=1))
    in_its_precision(network)
    return network


def make_concept(seed: int, images: int = 8, length: int = 3) -> ConceptData:
    """Blobs and what a concept of its own makes of them: the channels in another order."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(images, 3, 3, 3, generator=g)
    source = F.interpolate(coarse, size=8, mode="bilinear").mul(255).to(torch.uint8)
    order = torch.randperm(3, generator=g)
    tokens = torch.randn(length, 6, generator=g)
    return ConceptData(f"concept-{seed}", source, 255 - source[:, order], tokens)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)
