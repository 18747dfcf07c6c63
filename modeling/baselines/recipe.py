"""How the baselines are trained: what a user may set, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ScratchSettings:
    """What every from-scratch method needs; Sec. 5.1: all training images, 200 epochs."""

    epochs: int = 200
    """Over all training pairs of a concept."""
    batch: int = 1
    """Pairs a step."""
    lr: float = 2e-4
    """Learning rate of the generator's Adam."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminator's."""
    l1_weight: float = 100.0
    """Of mean |difference|."""
    gan_weight: float = 1.0
    """Of the adversarial term; 0 trains by L1 alone, and no discriminator then learns."""
    constant: float = 0.5
    """Part of the epochs at the full rates, which then fall linearly to 0; 1 = all."""
    jitter: int = 0
    """Pixels by which a pair is enlarged before it is cropped back at a random place."""
    flips: bool = False
    """Mirror every second pair, at random."""


@dataclass
class ScratchRecipe(ScratchSettings):
    """One training, checked: ValueError where a value is out of range."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.jitter < 0 or not 0 <= self.constant <= 1:
            raise ValueError(
                f"epochs and batch start at 1, jitter at 0, constant is in [0, 1]: {self}"
            )

    def rate(self, epoch: int) -> float:
        """What the learning rates are multiplied by in epoch `epoch` (from 0)."""
        constant = round(self.constant * self.epochs)
        return 1 - max(0, epoch + 1 - constant) / (self.epochs - constant + 1)

    def steps(self, epochs: int, images: int) -> int:
        """Optimisation steps that `epochs` epochs of `images` images take; nothing is dropped."""
        return -(-epochs * images // self.batch)


@dataclass
class SharedStartSettings:
    """Starts that are learned from all training concepts and know no text."""

    joint_steps: int = 0
    """Of one adapter trained on all training concepts at once; 0 = none."""
    reptile_steps: int = 0
    """Of a Reptile start, from which a few steps on any concept go far; 0 = none."""
    concepts: int = 8
    """Concepts a step, drawn as those of generator.image_concepts."""
    pairs: int = 4
    """Pairs of each, a step of the joint adapter."""
    lr: float = 1e-2
    """Learning rate of Adam, of both."""
    inner_steps: int = 8
    """Reptile's, on each concept, by the batch and losses of `adapt`."""
    rate: float = 0.5
    """Reptile's: the part of the way to the tuned adapters that a step goes, falling to 0."""
