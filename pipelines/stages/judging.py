"""What every method is judged on: unseen images of a concept with their true edits, and features.

One place for it, so that no two methods can be scored on other images or in another way.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch

from modeling.concepts.concept import Concept
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source, source_ids
from modeling.metrics.features import FeatureExtractor, make_features
from pipelines.config.derived import fresh_pairs, resolve_editor
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.pairs import load_pairs

FAR = 10**6
"""First of the avatars for distances: none is among the pairs or among the others."""


def features_of(config: Config) -> FeatureExtractor:
    """The feature extractor of evaluate.features; FeatureError if it cannot be built."""
    e = config.evaluate
    if e.features == "efficientnet":
        return make_features("efficientnet-lite0", input_size=e.features_size)
    key = {"inception": "weights", "clip": "model"}[e.features]
    given = {key: e.features_path} if e.features_path else {}
    return make_features(e.features, allow_download=config.allow_download, **given)


def digests(images: torch.Tensor) -> list[str]:
    """One name for each picture's content, of uint8 [n, 3, H, W]."""
    return [hashlib.sha1(image.tobytes()).hexdigest() for image in images.cpu().numpy()]


class Judged:
    """Unseen images of one concept: uint8 [n, 3, H, W] sources and their true edits."""

    def __init__(self, ids: list[str], source: torch.Tensor, edited: torch.Tensor) -> None:
        self.ids, self.source, self.edited = ids, source, edited

    @cached_property
    def digest(self) -> str:
        """Equal for equal pictures in equal order."""
        parts = [*digests(self.source), *digests(self.edited)]
        return hashlib.sha1("".join(parts).encode()).hexdigest()


class Judge:
    """Draws the images and computes their features; one per process."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.config, self.run_dir = config, run_dir
        self._sources: dict[tuple[int, int], list[Any]] = {}

    @cached_property
    def features(self) -> FeatureExtractor:
        return features_of(self.config)

    @property
    def fresh(self) -> bool:
        """Whether unseen pairs can be made at will."""
        return fresh_pairs(self.config)

    def judged(self, concept: Concept, first: int, count: int) -> Judged:
        """`count` fresh avatars, `first` … after those of the pairs; or the pairs' test images."""
        c = self.config
        if not self.fresh:
            pairs = load_pairs(self.run_dir, concept.concept_id, "test")
            return Judged(
                pairs.image_ids, torch.from_numpy(pairs.source), torch.from_numpy(pairs.edited)
            )
        if (first, count) not in self._sources:
            names = source_ids("avatars", count, c.images.count + first)
            self._sources[first, count] = [load_source(i, "avatars", c.images.size) for i in names]
        sources = self._sources[first, count]
        results = make_editor(resolve_editor(c)).edit(sources, concept)
        edited = [r for r in results if isinstance(r, EditResult)]
        if len(edited) < len(results):
            raise next(r for r in results if isinstance(r, EditError))

        def tensor(images: list[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())

        return Judged(
            [s.image_id for s in sources],
            tensor([s.image for s in sources]),
            tensor([r.image for r in edited]),
        )

    def embed(self, images: torch.Tensor) -> np.ndarray:
        """uint8 [n, 3, H, W] → features [n, d]."""
        return self.features(images.permute(0, 2, 3, 1).contiguous().numpy())
