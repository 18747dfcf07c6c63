"""Images that no training saw, with their true edits: what adapters are scored on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modeling.concepts import Concept
from modeling.editors import EditError, EditResult, load_source, make_editor, source_ids
from pipelines.artifacts import RunDir
from pipelines.config import Config, exact_editor, resolve_editor
from pipelines.pairs import load_pairs

FAR = 10**6
"""First of the avatars for the Fréchet distance: none is among the pairs or the others."""


class Judged:
    """Unseen images of one concept: uint8 [n, 3, H, W] sources and their true edits."""

    def __init__(self, ids: list[str], source: torch.Tensor, edited: torch.Tensor) -> None:
        self.ids, self.source, self.edited = ids, source, edited


class Unseen:
    """Judged images of any concept; the sources, which all share, are drawn once."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.config, self.run_dir = config, run_dir
        self._sources: dict[tuple[int, int], list[Any]] = {}

    def judged(self, concept: Concept, first: int, count: int) -> Judged:
        """Fresh avatars, `first` … after those of the pairs; or the test images of the pairs.

        Only an exact editor makes fresh pairs at no cost. Raises EditError if one fails.
        """
        c = self.config
        if c.images.source != "avatars" or not exact_editor(c):
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
