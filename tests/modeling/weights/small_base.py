"""A small base with adapters around its zero adapter, for trainings over weight blocks."""

from __future__ import annotations

import torch

from modeling.targets.lora import AdaptedTranslator
from modeling.targets.shapes import TranslatorConfig
from modeling.targets.translator import Translator
from modeling.weights.codec import BlockLayout
from modeling.weights.image_loss import ImageBatch
from modeling.weights.interface import TextBatch
from modeling.weights.normalisation import Normalisation

TEXT_DIM, BLOCK, CONCEPTS = 6, 32, 4


def make_translator() -> AdaptedTranslator:
    torch.manual_seed(0)
    config = TranslatorConfig(width=4, text_dim=TEXT_DIM, heads=2, edge_kernel=3)
    base = Translator(config).freeze_statistics()
    with torch.no_grad():
        base.head.weight.normal_(0, 0.2)
    return AdaptedTranslator(base, 1)


def text_of(concepts: int = CONCEPTS) -> TextBatch:
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor([4, 2, 1, 3])[:concepts, None]
    tokens = torch.randn(concepts, 4, TEXT_DIM, generator=g)
    return TextBatch(tokens, mask, torch.randn(concepts, TEXT_DIM, generator=g))


class SmallBase:
    """A translator, adapters around its zero adapter, and their layout and statistics."""

    def __init__(self) -> None:
        self.translator = make_translator()
        g = torch.Generator().manual_seed(2)
        zero = self.translator.zero_adapter()
        adapters = {
            k: v + 0.2 * torch.randn(CONCEPTS, *v.shape, generator=g) for k, v in zero.items()
        }
        groups = self.translator.groups
        self.layout = BlockLayout.build(self.translator.shapes, groups, 1, BLOCK)
        self.blocks = self.layout.to_blocks(adapters)
        self.normalisation = Normalisation.fit(self.blocks, self.layout)
        source = torch.randint(0, 256, (CONCEPTS, 3, 3, 8, 8), generator=g, dtype=torch.uint8)
        self.images = ImageBatch(source, 255 - source, text_of())
