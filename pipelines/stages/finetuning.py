"""The run's fine-tune, the same wherever it is done: learned steps on example pairs, then Adam.

What adapting, evaluating, comparing and serving share. A recipe's parts are switches of `adapt`;
with all of them off it is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from modeling.targets.adapter_training import ConceptData, Trained, train_adapters
from modeling.targets.coordinates import FACTORS, Coordinates
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.lora import AdaptedTranslator, Adapter, unstack
from modeling.targets.recipe import Recipe, finetune_recipe
from modeling.text import TextEmbedding
from modeling.weights.gradient_basis import BasisCoordinates
from modeling.weights.image_loss import ImageLoss
from modeling.weights.interface import TextBatch
from modeling.weights.learned_steps import learned_steps
from modeling.weights.refiner import Refiner
from pipelines.config.schema import Config
from pipelines.config.sections.finetune import Adapt
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.gradients import image_loss, load_basis
from pipelines.stages.prediction import Decoder, Predictor
from pipelines.stages.refiners import load_refiner
from pipelines.stages.weight_generators import text_batch

OnStep = Callable[[int, Adapter], None]


class FineTune:
    """Trains adapters of one run's base; the basis and the refiners are loaded when first needed.

    Raises ArtifactError when a part that a recipe asks for is not in the run.
    """

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        translator: AdaptedTranslator,
        discriminator: PatchDiscriminator,
        decoder: Decoder,
    ) -> None:
        self.run_dir, self.translator, self.discriminator = run_dir, translator, discriminator
        self.decoder = decoder
        critic = discriminator.requires_grad_(False)
        self.loss: ImageLoss = image_loss(
            config, translator, critic, decoder.layout, decoder.normalisation
        )
        self._refiners: dict[int, Refiner] = {}

    def __call__(
        self,
        concepts: Sequence[ConceptData],
        starts: Sequence[Mapping[str, Tensor]],
        texts: Sequence[TextEmbedding],
        adapt: Adapt,
        seed: int,
        *,
        learned: int | None = None,
        repeat: int = 0,
        keep: Sequence[int] = (),
        on_step: OnStep | None = None,
        recipe: Recipe | None = None,
    ) -> list[Trained]:
        """As `train_adapters`; step k of a result is the k-th in all, learned ones first.

        texts: of the concepts, for the refiner. adapt: the recipe's switches. repeat: whose
        refiner. recipe: other than of adapt, for its number of steps.
        """
        if not concepts:
            return []
        recipe = recipe or finetune_recipe(adapt)
        learned = min(adapt.learned_steps if learned is None else learned, recipe.steps)
        begun = self._now()
        track, losses = [], []
        if learned:
            blocks = torch.stack([self.decoder.encode(dict(a)) for a in starts])
            used = adapt.learned_pairs
            for stacked, loss in self._refined(
                concepts, blocks, texts, learned, used, repeat, seed
            ):
                track.append(unstack(stacked))
                losses.append(loss)
                if on_step:
                    on_step(len(track), stacked)
            starts = track[-1]
        seconds = self._now() - begun

        def shifted(step: int, adapters: Adapter) -> None:
            if on_step and (step or not learned):
                on_step(step + learned, adapters)

        rest = train_adapters(
            self.translator,
            concepts,
            starts,
            replace(recipe, steps=recipe.steps - learned),
            self.discriminator,
            seed,
            [k - learned for k in keep if k > learned],
            shifted if on_step else None,
            self.coordinates(adapt),
        )
        for i, trained in enumerate(rest):
            trained.seconds, trained.learned_seconds = trained.seconds + seconds, seconds
            if trained.error and learned:
                trained.error = f"after {learned} learned steps: {trained.error}"
            trained.losses = [loss[i] for loss in losses] + trained.losses
            later = {k + learned: v for k, v in trained.checkpoints.items()}
            trained.checkpoints = {k: track[k - 1][i] for k in keep if 0 < k <= learned} | later
        return rest

    def _refined(
        self,
        concepts: Sequence[ConceptData],
        blocks: Tensor,
        texts: Sequence[TextEmbedding],
        steps: int,
        pairs: int,
        repeat: int,
        seed: int,
    ) -> Iterator[tuple[Adapter, list[float]]]:
        """After each learned step the stacked adapters, and the losses that the step saw."""
        device = self.decoder.device
        for after, loss in learned_steps(
            self._refiner(repeat),
            self.loss,
            blocks,
            torch.stack([c.source for c in concepts]),
            torch.stack([c.edited for c in concepts]),
            TextBatch(*(v.to(device) for v in text_batch(list(texts)))),
            steps,
            pairs,
            seed,
        ):
            yield self.decoder.decode(after), loss.tolist()

    def _now(self) -> float:
        """With the device's queue empty."""
        if self.decoder.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    def coordinates(self, adapt: Adapt) -> Coordinates:
        """Those in which Adam works."""
        return self._basis if adapt.basis else FACTORS

    @cached_property
    def _basis(self) -> BasisCoordinates:
        layout = self.decoder.layout
        basis = load_basis(self.run_dir, layout).to(self.decoder.device)
        return BasisCoordinates(layout, self.decoder.normalisation, basis)

    def _refiner(self, repeat: int) -> Refiner:
        if repeat not in self._refiners:
            self._refiners[repeat] = load_refiner(self.run_dir, repeat).to(self.decoder.device)
        return self._refiners[repeat]


class Adapting(Predictor):
    """A predictor that can also fine-tune."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.finetune = FineTune(
            self.config, run_dir, self.translator, self.discriminator, self.decoder
        )
