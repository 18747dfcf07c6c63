"""The image loss of an adapter as a function of its weight blocks, and its gradient there.

What the learned steps (refiner.py) are told of a concept's example pairs, and what the basis of the
collection's gradients (gradient_basis.py) is made of. L1, or Eq. (4) against a discriminator that
is left as it is, in units of L1: divided by Eq. (4)'s weight of L1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.precision import training_pass
from modeling.targets.adapter_training import to_unit
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss
from modeling.targets.lora import AdaptedTranslator
from modeling.weights.codec import BlockLayout
from modeling.weights.interface import TextBatch
from modeling.weights.normalisation import Normalisation


@dataclass
class ImageBatch:
    """Pairs of B concepts for the image loss, uint8 [B, M, 3, H, W] each, and their prompts.

    They need not be the concepts whose weights are in the same step, nor have an adapter at all.
    """

    source: Tensor
    edited: Tensor
    text: TextBatch


@dataclass
class ImageLoss:
    """Blocks here are normalised, [B, N, b] of B concepts; layout and statistics are the base's."""

    translator: AdaptedTranslator
    layout: BlockLayout
    normalisation: Normalisation
    critic: PatchDiscriminator | None = None
    critic_weight: float = 0.0
    """Eq. (4)'s weight of its adversarial term, divided by that of L1."""

    def zero(self) -> Tensor:
        """The blocks [N, b] of the zero adapter, where every collected training starts."""
        return self.normalisation.apply(self.layout.to_blocks(self.translator.zero_adapter()))

    def __call__(self, blocks: Tensor, source: Tensor, edited: Tensor, text: TextBatch) -> Tensor:
        """Loss [B] of uint8 pairs [B, M, 3, H, W]: the mean |difference|, images in [-1, 1]."""
        adapters = self.layout.from_blocks(self.normalisation.invert(blocks))
        x, truth = to_unit(source), to_unit(edited)
        fake = training_pass(self.translator.translate, adapters, x, text.tokens, text.mask)
        loss = (fake - truth).abs().mean(dim=(1, 2, 3, 4))
        if self.critic is None or not self.critic_weight:
            return loss
        verdicts = [
            adversarial_loss(training_pass(self.critic, a, b))
            for a, b in zip(x, fake.unbind(0), strict=True)
        ]
        return loss + self.critic_weight * torch.stack(verdicts)

    def gradient(
        self, blocks: Tensor, source: Tensor, edited: Tensor, text: TextBatch
    ) -> tuple[Tensor, Tensor]:
        """Its gradient [B, N, b], each concept's own, and the loss [B]; both without a graph."""
        with torch.enable_grad():
            at = blocks.detach().requires_grad_()
            loss = self(at, source, edited, text)
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        return gradient, loss.detach()
