"""Of stage `generator`: the basis for the fine-tune, from gradients over training concepts.

Taken by a pool of actors on the way that a fine-tune goes: at the prediction, at the collected
adapter, and halfway. It lies beside the weight generator.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from modeling.targets.adapter_training import pad_tokens
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.lora import AdaptedTranslator
from modeling.weights.codec import BlockLayout
from modeling.weights.gradient_basis import GradientBasis, GradientSums
from modeling.weights.grouping import CodecError
from modeling.weights.image_loss import ImageLoss
from modeling.weights.interface import TextBatch
from modeling.weights.normalisation import Normalisation
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.stages.gans import load_adapter
from pipelines.stages.prediction import Predictor
from pipelines.stages.training_set import TrainingSet
from pipelines.stages.weight_generators import FOLDER
from pipelines.stages.weights import drawn, load_layout

BASIS_FILE = f"{FOLDER}/basis.safetensors"
POINTS = (0.0, 0.5, 1.0)
"""Of the way from the prediction to the collected adapter."""
PAIRS = 16
"""On which one gradient is taken."""
TOGETHER = 4
"""Concepts that an actor takes at a time."""


def image_loss(
    config: Config,
    translator: AdaptedTranslator,
    critic: PatchDiscriminator,
    layout: BlockLayout,
    normalisation: Normalisation,
) -> ImageLoss:
    """The loss of the collection, against the base's discriminator as it is."""
    g = config.gans
    weight = g.gan_weight / g.l1_weight if g.l1_weight else 0.0
    return ImageLoss(translator, layout, normalisation, critic, weight)


class ConceptGradients(Predictor):
    """Ray Data actor: the gradients of a few training concepts."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, folders: Mapping[str, str]) -> None:
        """folders: of each concept's adapter."""
        super().__init__(config, run_dir)
        self.folders = folders
        self.loss = image_loss(
            self.config,
            self.translator,
            self.discriminator,
            self.decoder.layout,
            self.decoder.normalisation,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [self.gradients(str(i)) for i in batch["concept_id"]]
        return {"concept_id": batch["concept_id"], "gradients": np.stack(rows)}

    def gradients(self, concept_id: str) -> np.ndarray:
        """Float32 [POINTS, N, b]."""
        data = self.data(concept_id)
        rng = torch.Generator().manual_seed(self.config.seed)
        index = torch.randperm(len(data.source), generator=rng)[:PAIRS].to(self.device)
        tokens, mask = (t.to(self.device) for t in pad_tokens([data.tokens]))
        text = TextBatch(tokens, mask, self.texts[concept_id].pooled[None].to(self.device))
        (start,) = self.predict([concept_id])
        begun, end = self.decoder.encode(start), self._collected(concept_id)
        out = []
        for part in POINTS:
            at = torch.lerp(begun, end, part)[None]
            gradient, _ = self.loss.gradient(
                at, data.source[None, index], data.edited[None, index], text
            )
            out.append(gradient[0].cpu().numpy())
        return np.stack(out)

    def _collected(self, concept_id: str) -> torch.Tensor:
        """Its last checkpoint, normalised [N, b]."""
        adapter = load_adapter(self.run_dir, self.folders[concept_id])
        return self.decoder.encode({k: v.to(self.device) for k, v in adapter.items()})


def fit_basis(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """Write the basis, unless it is there; what the stage says of it."""
    if run_dir.exists(BASIS_FILE):
        return {}
    begun = time.perf_counter()
    collected = TrainingSet(run_dir)
    chosen = sorted(drawn(collected.ids, config.refine.basis_concepts, config.seed))
    log(f"generator: a basis of the gradients over {len(chosen)} training concepts")
    progress = Progress("generator", len(chosen), "concepts")
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    arguments["folders"] = {i: collected.folder(i) for i in chosen}
    rows = [{"concept_id": i} for i in chosen]
    found = {}
    for row in map_actors(config, ConceptGradients, arguments, rows, batch=TOGETHER):
        found[str(row["concept_id"])] = torch.from_numpy(np.asarray(row["gradients"]).copy())
        progress.add()
    sums = GradientSums.empty(load_layout(run_dir)[0])
    for concept_id in chosen:  # in one order, whichever actor was first
        sums.add(found[concept_id])
    run_dir.write(BASIS_FILE, sums.finish().to_bytes())
    return {"basis": {"concepts": len(chosen), "seconds": time.perf_counter() - begun}}


def load_basis(run_dir: RunDir, layout: BlockLayout) -> GradientBasis:
    """The run's basis; ArtifactError if it is damaged or not there."""
    try:
        return GradientBasis.from_bytes(run_dir.read(BASIS_FILE), layout)
    except CodecError as error:
        raise ArtifactError(f"{run_dir.url(BASIS_FILE)}: {error}") from error
