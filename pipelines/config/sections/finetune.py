"""The fine-tune after a prediction, and what it learns from the collection first."""

from __future__ import annotations

from dataclasses import dataclass, field

from modeling.targets.recipe import FineTuning
from modeling.weights.recipe import RefinerTrainingSettings


@dataclass
class Refine(RefinerTrainingSettings):
    """What the collection teaches of fine-tuning: a refiner, which takes learned steps from example
    pairs (modeling/weights/refiner.py), and a basis for Adam (modeling/weights/gradient_basis.py).
    """

    width: int = 128
    """Of the refiner's tokens."""
    depth: int = 3
    """Its layers."""
    heads: int = 4
    """Of attention."""
    concepts: int = 8
    """Concepts a step, drawn as those of generator.image_concepts."""
    pairs: int = 12
    """Pairs of each, those that are scored included."""
    checkpoint_every: int = 50
    """Steps; a training that is killed goes on from the last one."""
    workers: int = 1
    """Of Ray Train, each with `concepts` concepts a step."""
    basis_concepts: int = 0
    """Training concepts on whose gradients the basis is fitted; 0 = no basis."""


@dataclass
class Adapt(FineTuning):
    """Prediction for an unseen concept and the short fine-tune (paper Sec. 4.4)."""

    split: str = "test"
    """test | val: the held-out concepts. Choose hyper-parameters on val."""
    t: int = 999
    """Time step of the one-step recovery, near pure noise."""
    sampler: str = "one_step"
    """one_step | ddim"""
    ddim_steps: int = 20
    """Evaluations of the weight generator, for sampler=ddim."""
    steps: int = 16
    batch: int = 16
    lr: float = 3e-3
    coreset: int = 64
    """Training images picked by k-means."""
    keep: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Steps, besides 0 and the last, at which every method is scored."""
