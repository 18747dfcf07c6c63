"""How a base and adapters are trained (Eq. 4): what a user may set, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from modeling.settings import taken


@dataclass
class Training:
    """The alternation of translator and discriminator, Adam with β₁ = 0.5."""

    steps: int
    """Of optimisation."""
    batch: int
    """Pairs a step."""
    lr: float
    """Learning rate of Adam; the paper's are 2e-4, and 1.5e-3 of the fine-tune."""
    l1_weight: float = 100.0
    """Of mean |difference| in Eq. (4)."""
    gan_weight: float = 1.0
    """0 trains by L1 alone and needs no discriminator."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminator's Adam."""


@dataclass
class AdapterTraining(Training):
    """The same of an adapter."""

    ema: float = 0.0
    """Decay of the average that is kept; 0 keeps the last weights."""


@dataclass
class FineTuning(AdapterTraining):
    """The same of the short fine-tune, and what it may know of the collection (none of which is in
    the paper)."""

    learned_steps: int = 0
    """Of `steps`, the first that the refiner takes (refine.steps > 0); 0 is the paper's."""
    learned_pairs: int = 8
    """Pairs that a learned step sees."""
    basis: bool = False
    """Adam in the basis of the collection's gradients (refine.basis_concepts > 0)."""
    basis_lr: float = 0.4
    """Learning rate there, in deviations of a weight over the collection."""


@dataclass
class Collecting(AdapterTraining):
    """The same of every adapter that the weight generator learns from."""

    lr_floor: float = 0.0
    """Part of lr at which its cosine decay ends; 1 = a constant rate."""


FineTuningT = TypeVar("FineTuningT", bound=FineTuning)


@dataclass
class Recipe(AdapterTraining):
    """One training, resolved. The paper's: Adam, lr 2e-4, 100 epochs; fine-tune 1.5e-3, 20."""

    lr_final: float = 0.0
    """Cosine decay from `lr` to this; equal to `lr` for a constant rate."""
    warmup: int = 0
    clip: float = 0.0
    """Largest gradient norm of one adapter; 0 for none."""

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr_final + (self.lr - self.lr_final) * 0.5 * (1 + math.cos(math.pi * progress))


def base_recipe(settings: Training) -> Recipe:
    """Of the base translator: the rate decays to 0 after a short warm-up."""
    return taken(Recipe, settings, warmup=min(20, settings.steps // 10))


def collection_recipe(settings: Collecting, steps: int) -> Recipe:
    """Of every adapter of the collection, all equally long: rate decaying to its floor."""
    final = settings.lr_floor * settings.lr
    return taken(
        Recipe, settings, steps=steps, lr_final=final, warmup=min(5, steps // 10), clip=1e3
    )


def finetune_recipe(settings: FineTuning) -> Recipe:
    """Of the short fine-tune (the paper's: 20 epochs, lr 1.5e-3, 400 images)."""
    if not settings.basis:
        return taken(Recipe, settings, clip=1e3)
    # a full first step of this length would undo a good start
    warmup = min(5, settings.steps // 4)
    return taken(Recipe, settings, lr=settings.basis_lr, warmup=warmup, clip=1e3)


def as_published(settings: FineTuningT) -> FineTuningT:
    """The same fine-tune by Adam on the LoRA factors alone."""
    return replace(settings, learned_steps=0, basis=False)
