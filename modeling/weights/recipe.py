"""How a weight generator is trained: what a user may set, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modeling.settings import taken


@dataclass
class GeneratorTrainingSettings:
    """AdamW on Eq. (1), then on the image loss; the paper's are lr 1e-5, weight decay 0.01."""

    steps: int
    """On weight blocks, by Eq. (1)."""
    lr: float
    """Learning rate of AdamW, after a warm-up; it decays to 0."""
    t_min: int = 0
    """Training draws t from [t_min, 999]."""
    blocks_per_concept: int = 0
    """Blocks of a concept in a step; 0 = all (the transformer needs all)."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.99
    """Decay of the average of the weights that is kept."""
    text_noise: float = 0.0
    """Deviation of Gaussian noise on the text embedding while training."""
    image_steps: int = 0
    """Further steps through the frozen translator on the image loss."""
    image_lr: float = 5e-4
    """Learning rate there."""
    image_weight: float = 10.0
    """Weight of L1 there."""
    image_denoising: float = 0.1
    """Weight of Eq. (1) there; 0 saves its passes."""
    image_gan: float = 0.0
    """Weight of the adversarial term there; image_weight / 100 makes it the paper's Eq. (4)."""


@dataclass
class GeneratorRecipe(GeneratorTrainingSettings):
    """One training, resolved."""

    image_t: int = 999
    """Time step of the prediction on which the image loss is taken."""
    discriminator_lr: float = 2e-4

    @property
    def total(self) -> int:
        return self.steps + self.image_steps

    def rate(self, step: int) -> float:
        """Warm-up and cosine decay, once for each of the two phases."""
        if step < self.steps:
            return _decayed(self.lr, step, self.steps)
        return _decayed(self.image_lr, step - self.steps, self.image_steps)


def generator_recipe(settings: GeneratorTrainingSettings, t: int) -> GeneratorRecipe:
    """t: the time step at which adapters will be predicted."""
    return taken(GeneratorRecipe, settings, image_t=t)


@dataclass
class RefinerTrainingSettings:
    """AdamW on the image loss after each learned step (modeling/weights/learned_steps.py)."""

    steps: int = 0
    """Of its training; 0 = none, and no learned steps (the paper's)."""
    lr: float = 1e-3
    """Learning rate of AdamW, after a warm-up; it decays to 0."""
    iterations: int = 4
    """Learned steps unrolled in training."""
    scored: int = 4
    """Pairs of a concept on which each learned step is scored; its gradient sees others."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.99
    """Decay of the average of the weights that is kept."""
    from_zero: float = 0.1
    """Part of the starts that are the zero adapter."""
    from_other: float = 0.3
    """Part of them that are another concept's prediction: as far off as an unseen family's."""
    from_noise: float = 0.1
    """Part of them that are the prediction and noise."""
    start_noise: float = 0.5
    """Largest deviation of that noise, in normalised weights."""
    invented: float = 0.3
    """Part of the concepts that are invented (modeling/weights/invented.py)."""
    no_text: float = 0.3
    """Part of the concepts whose text the refiner is not told: pairs alone must do."""
    same_pairs: float = 0.5
    """Part of the trainings whose steps all see the same pairs, as with few examples."""


@dataclass
class RefinerRecipe(RefinerTrainingSettings):
    """One training, resolved."""

    def rate(self, step: int) -> float:
        """Warm-up and cosine decay."""
        return _decayed(self.lr, step, self.steps)


def refiner_recipe(settings: RefinerTrainingSettings) -> RefinerRecipe:
    return taken(RefinerRecipe, settings)


def _decayed(lr: float, step: int, count: int) -> float:
    warmup = min(50, max(1, count // 10))
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, count - warmup)))
