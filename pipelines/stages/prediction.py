"""From text embeddings to adapters: what adapting, evaluating and serving share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from modeling.targets.lora import Adapter
from modeling.text import TextEmbedding
from modeling.weights.interface import TextBatch, WeightGenerator
from modeling.weights.weight_generator import draw_noise, predict_blocks
from pipelines.config.sections.finetune import Adapt
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.trainer import Trainer
from pipelines.stages.weight_generators import load_generator, text_batch
from pipelines.stages.weights import load_layout


class Decoder:
    """Runs a weight generator and turns its blocks into adapters of the run's base."""

    def __init__(self, run_dir: RunDir, adapt: Adapt, device: torch.device) -> None:
        self.adapt, self.device = adapt, device
        self.layout, normalisation = load_layout(run_dir)
        self.normalisation = normalisation.to(device)

    def adapters(
        self,
        generator: WeightGenerator,
        embeddings: Sequence[TextEmbedding],
        seed: int | Sequence[int],
        t: int | None = None,
        steps: int | None = None,
    ) -> list[Adapter]:
        """One adapter per text, by the configured sampler; equal arguments give equal weights.

        seed: of the noise, one for all or one for each. t: the time step of the prediction, the
        configured one by default. steps: 1 for direct recovery, more for DDIM; as configured by
        default.
        """
        seeds = [seed] * len(embeddings) if isinstance(seed, int) else seed
        steps = self.steps if steps is None else steps
        text = text_batch(list(embeddings))
        blocks = predict_blocks(
            generator,
            generator.config.noise_schedule(),
            TextBatch(*(v.to(self.device) for v in text)),
            self.adapt.t if t is None else t,
            noise=draw_noise(generator.config, seeds).to(self.device),
            method="one_step" if steps == 1 else "ddim",
            ddim_steps=steps,
            mask_w=self.layout.mask.to(self.device),
        )
        stacked = self.decode(blocks)
        return [{k: v[i] for k, v in stacked.items()} for i in range(len(embeddings))]

    @property
    def steps(self) -> int:
        """Evaluations of the weight generator, as configured; 1 is direct recovery."""
        return self.adapt.ddim_steps if self.adapt.sampler == "ddim" else 1

    def decode(self, blocks: torch.Tensor) -> Adapter:
        """Normalised blocks [..., N, b] → an adapter's tensors, [...] in front of each."""
        return self.layout.from_blocks(self.normalisation.invert(blocks))

    def encode(self, adapter: Adapter) -> torch.Tensor:
        """The inverse of `decode`."""
        return self.normalisation.apply(self.layout.to_blocks(adapter))


class Predictor(Trainer):
    """What an actor loads once to predict adapters: base, weight generator, layout."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.generator = load_generator(run_dir).model.to(self.device)
        self.decoder = Decoder(run_dir, self.config.adapt, self.device)

    def predict(
        self,
        text_of: list[str],
        generator: WeightGenerator | None = None,
        seed: int | None = None,
    ) -> list[Adapter]:
        """Adapters for the texts of these concepts.

        generator, seed: others than the run's own.
        """
        return self.decoder.adapters(
            generator or self.generator,
            [self.texts[i] for i in text_of],
            self.config.seed if seed is None else seed,
        )

    def wait(self) -> float:
        """Now, with the device's queue empty."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
