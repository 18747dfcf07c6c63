"""Scores and pictures of one method on one concept: the same unseen images for all methods."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from modeling.concepts.concept import Concept
from modeling.images import encode_png
from modeling.metrics.distances import MIN_FRECHET_COUNT, frechet_distance_from_features, kid
from modeling.targets.adapter_training import to_unit
from pipelines.comparison.rows import FOLDER
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.judging import FAR, Judge, Judged, digests


class Scorer:
    """One per process. device: what the pictures are made on."""

    def __init__(self, config: Config, run_dir: RunDir, device: torch.device) -> None:
        self.config, self.run_dir, self.device = config, run_dir, device
        self.judge = Judge(config, run_dir)
        self._truth: dict[str, tuple[Judged, Any]] = {}

    def judged(self, concept: Concept) -> Judged:
        """Unseen images of a concept and their true edits."""
        return self._judged(concept)[0]

    def _judged(self, concept: Concept) -> tuple[Judged, Any]:
        """With the features of the true edits; those of the last concept are kept."""
        if concept.concept_id not in self._truth:
            judged = self.judge.judged(concept, FAR, self.config.compare.images)
            self._truth = {concept.concept_id: (judged, self.judge.embed(judged.edited))}
        return self._truth[concept.concept_id]

    def row(
        self,
        concept: Concept,
        method: str,
        repeat: int,
        made: torch.Tensor,
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The scores of pictures uint8 [n, 3, H, W]; about: columns that are not 0."""
        judged = self.judged(concept)
        n = len(made)
        if len(judged.edited) != n:
            raise StageError(f"compare: {n} pictures of {method}, {len(judged.edited)} true edits")
        return {
            "method": method,
            "concept_id": concept.concept_id,
            "text": concept.text,
            "heldout": concept.heldout,
            "seed": self.config.seed + repeat,
            **self._scores(concept, made),
            "n": n,
            "judged": judged.digest,
            "size": made.shape[-1],
            "features": self.judge.features.description,
            "distance": self.judge.features.name,
            "device": self.device.type,
            "finetune": "",
            "learned": 0,
            "epoch": 0,
            "epochs": 0,
            "step": 0,
            "images": 0,
            "trainable": 0,
            "total": 0,
            "training_flops": 0.0,
            "image_flops": 0.0,
            **(about or {}),
        }

    def show(
        self,
        concept: Concept,
        method: str,
        made: torch.Tensor,
        epoch: int = 0,
        l1: float | None = None,
    ) -> list[dict[str, Any]]:
        """The first pictures, as many as report.pictures says."""
        judged = self.judged(concept)
        shown = list(zip(judged.ids, made, strict=True))[: self.config.report.pictures]
        return [
            {
                "concept_id": concept.concept_id,
                "text": concept.text,
                "method": method,
                "epoch": epoch,
                "l1": l1,
                "image_id": image_id,
                "image": encode_png(image.permute(1, 2, 0).contiguous().numpy()),
            }
            for image_id, image in shown
        ]

    def _scores(self, concept: Concept, made: torch.Tensor) -> dict[str, float | None]:
        """L1, KID and Fréchet distance; those of the same pictures are computed once.

        Starts that no seed changes give the same pictures again and again, and features are what
        takes the time.
        """
        judged, true = self._judged(concept)
        both = hashlib.sha1("".join([judged.digest, *digests(made)]).encode()).hexdigest()
        path = f"{FOLDER}/scores/{both}.json"
        if self.run_dir.exists(path):
            return dict(self.run_dir.read_json(path))
        features, n = self.judge.embed(made), len(made)
        found = {
            "l1": float((to_unit(made) - to_unit(judged.edited)).abs().mean()),
            "kid": kid(features, true, 1, n),
            "fd": (
                frechet_distance_from_features(features, true) if n >= MIN_FRECHET_COUNT else None
            ),
        }
        self.run_dir.write_json(path, found)
        return found
