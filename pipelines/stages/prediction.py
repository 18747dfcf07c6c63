"""From text embeddings to adapters: what adapting, evaluating and serving share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modeling.targets.lora import Adapter
from modeling.text import TextEmbedding
from modeling.weights.interface import TextBatch, WeightGenerator
from modeling.weights.weight_generator import draw_noise, predict_blocks
from pipelines.config.sections.training import Adapt
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.weight_generators import text_batch
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
