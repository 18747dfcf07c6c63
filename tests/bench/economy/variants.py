"""What a part of the concepts with adapters costs, and what is spent instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.pairs import usable
from pipelines.stages.weights import drawn


class Variant(NamedTuple):
    part: float
    """Of the training concepts, those with an adapter."""
    further: int
    """Combinations with pairs alone, beside those that have lost their adapter."""
    steps: int = 0
    """On the image loss; 0 = as many as the seconds allow."""


VARIANTS = {
    "all": Variant(1, 0),
    "all, further 1,500 by pairs": Variant(1, 1500),
    "all, further 4,500 by pairs": Variant(1, 4500),
    "a half": Variant(1 / 2, 4500),
    "a quarter": Variant(1 / 4, 4500),
    "a tenth": Variant(1 / 10, 4500),
    "a tenth, the preset's steps": Variant(1 / 10, 4500, 1500),
}
OWN = "all, further 1,500 by pairs"
"""What the preset has, and whose seconds all variants have."""


class Trainings:
    """Training concepts of the run, and what they cost."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.config, self.run_dir = config, run_dir
        train = [c for c in usable(run_dir) if c.split == "train"]
        self.with_adapter = [c.concept_id for c in train if c.adapter]
        self.combined = {c.concept_id for c in train if c.origin == "combined"}
        self.others = [c.concept_id for c in train if not c.adapter]

    def adapters(self, variant: Variant) -> int:
        return round(variant.part * len(self.with_adapter))

    def pools(self, variant: Variant) -> tuple[list[list[str]], set[str]]:
        """As the stage has them: with an adapter, combinations without, atoms without.

        Also those that have few pairs.
        """
        seed = self.config.seed
        chosen = drawn(self.with_adapter, self.adapters(variant), seed)
        few = set(self.with_adapter) - chosen | drawn(self.others, variant.further, seed)
        pools = [chosen, few & self.combined, few - self.combined]
        return [sorted(pool) for pool in pools if pool], few

    def collecting(self, variant: Variant, rates: Mapping[str, float]) -> dict[str, float]:
        """Processor seconds of adapters and edits."""
        count, images = self.adapters(variant), self.config.images
        few = len(self.with_adapter) - count + variant.further
        return {
            "adapters": count * rates["adapter"],
            "edits": (count * images.count + few * images.paired) * rates["edit"],
        }

    def image_steps(self, variant: Variant, rates: Mapping[str, float]) -> int:
        """Those that make its seconds equal to the preset's, unless it states its own."""
        if variant.steps:
            return variant.steps
        own = sum(self.collecting(VARIANTS[OWN], rates).values())
        saved = own - sum(self.collecting(variant, rates).values())
        return round(self.config.generator.image_steps + saved / rates["image step"])
