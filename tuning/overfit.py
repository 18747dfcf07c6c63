"""Trials of the kind `overfit`: a weight generator on one concept alone (paper, Tables 2 and 3).

The concept's adapter is cut by the variant's block size and grouping rule and learned from scratch,
all of its blocks in every step, so that every variant sees each weight equally often; then it is
predicted in one step from pure noise, written back, and scored on unseen images. Normalisation is
the mean and deviation of each tensor of that one adapter: an elementwise mean would be the adapter
itself.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, cast

import torch

from modeling.targets.lora import AdaptedTranslator, Adapter
from modeling.weights.codec import BlockLayout
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.interface import SamplingMethod, WeightGenerator
from modeling.weights.normalisation import Normalisation
from modeling.weights.recipe import generator_recipe
from modeling.weights.weight_generator import build, predict_blocks, unwrap
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.log import Progress
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.base import load_base
from pipelines.stages.judging import features_of
from pipelines.stages.weight_generators import generator_config, text_batch
from tuning.subjects import Subject, score

OVERFIT = ("generator.image_steps=0", "rival.train=false")
"""The tables are about weights alone."""
METHOD = "overfit"
CHUNK = 64
"""Blocks a call, as the paper times it."""
REPEATS = 5
"""Timed generations, of which the median counts."""
Point = dict[str, Any]


def overfit_key(config: Config, subject: str, seed: int, points: int) -> str:
    """What decides a trial's result; subject: its key."""
    tree = to_dict(config)
    parts = [METHOD, subject, seed, points, tree["generator"], tree["seed"]]
    parts += [{k: tree["weights"][k] for k in ("block_size", "grouping")}]
    parts += [{k: tree["adapt"][k] for k in ("t", "sampler", "ddim_steps")}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Overfitting:
    """One trial: subject, layout and seed.

    Raises CodecError if the subject's adapter is not one of this translator.
    """

    def __init__(
        self, config: Config, translator: AdaptedTranslator, subject: Subject, seed: int
    ) -> None:
        self.config, self.subject, self.seed = config, subject, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.translator = translator.to(self.device)
        w = config.weights
        self.layout = BlockLayout.build(
            self.translator.shapes, self.translator.groups, w.grouping, w.block_size
        )
        self.raw = self.layout.to_blocks(subject.adapter).to(self.device)
        fitted = Normalisation.fit(self.raw[None].cpu(), self.layout, centre="tensor")
        self.normalisation = fitted.to(self.device)
        self.mask = self.layout.mask.to(self.device)

    def network(self) -> WeightGenerator:
        """A fresh weight generator, from the seed."""
        torch.manual_seed(self.seed)
        dim = self.subject.embedding.pooled.shape[0]
        return build(generator_config(self.config, self.layout.n_blocks, dim)).to(self.device)

    def predict(self, model: WeightGenerator) -> torch.Tensor:
        """Normalised blocks [N, b] by the configured sampler."""
        text = text_batch([self.subject.embedding])
        return predict_blocks(
            model,
            model.config.noise_schedule(),
            type(text)(*(v.to(self.device) for v in text)),
            self.config.adapt.t,
            seed=self.seed,
            # config.check allows no other sampler; OmegaConf has no Literal
            method=cast(SamplingMethod, self.config.adapt.sampler),
            ddim_steps=self.config.adapt.ddim_steps,
            chunk=CHUNK,
            mask_w=self.mask,
        )[0]

    def written_back(self, blocks: torch.Tensor) -> Adapter:
        """Normalised blocks [N, b] → an adapter of the base."""
        return self.layout.from_blocks(self.normalisation.invert(blocks))

    def rmse(self, blocks: torch.Tensor) -> float:
        """Root mean square error of real weights, in deviations of their tensors."""
        error = (blocks - self.normalisation.apply(self.raw))[self.mask]
        return float(error.square().mean().sqrt())

    def points(self, count: int) -> Iterator[Point]:
        """Train; yields the scores at `count` even steps, KID and FD only at the last.

        Raises FloatingPointError if the loss is not finite.
        """
        config, recipe = self.config, generator_recipe(self.config.generator, self.config.adapt.t)
        model = self.network()
        training = GeneratorTraining(model, self.layout, self.normalisation, recipe, self.seed)
        batch = config.generator.batch
        blocks, text = self.raw.expand(batch, -1, -1), text_batch([self.subject.embedding] * batch)
        wanted = {max(1, recipe.steps * (i + 1) // count) for i in range(count)}
        progress = Progress(f"overfit {self.subject.text}", recipe.steps, "steps")
        spent = 0.0
        for step in range(1, recipe.steps + 1):
            begun = time.perf_counter()
            loss = float(training.step(blocks, text)["denoising"])  # waits for the device
            spent += time.perf_counter() - begun
            progress.add(note=f"denoising {loss:.3f}")
            if step not in wanted:
                continue
            training.losses.check()
            predicted = self.predict(unwrap(training.ema.averaged(model)))
            last = step == recipe.steps
            features = features_of(config) if last and self._wants_features() else None
            scores = score(self.written_back(predicted), self.subject, self.translator, features)
            yield {
                **scores,
                "concept_id": self.subject.concept_id,
                "text": self.subject.text,
                "method": METHOD,
                "seed": self.seed,
                "step": step,
                "seconds": spent,
                "rmse": self.rmse(predicted),
                "gap": self.subject.gap(scores["l1"]),
            }

    def _wants_features(self) -> bool:
        return self.subject.features is not None or self.subject.wide_source is not None


def generation_seconds(config: Config, run_dir: RunDir, folder: str) -> dict[str, Any]:
    """Median wall clock to predict all blocks of one adapter, `CHUNK` blocks a call.

    folder: of any subject. An untrained network costs what a trained one does. To be called when
    nothing else runs.
    """
    translator, _ = load_base(config, run_dir)
    trial = Overfitting(config, translator, Subject.read(run_dir, folder), config.seed)
    model = trial.network()
    seconds = []
    for _ in range(1 + REPEATS):  # the first warms up
        begun = time.perf_counter()
        trial.predict(model).cpu()
        seconds.append(time.perf_counter() - begun)
    return {
        "seconds": statistics.median(seconds[1:]),
        "repeats": REPEATS,
        "threads": torch.get_num_threads(),
        "device": str(trial.device),
        "blocks": trial.layout.n_blocks,
        "block_size": trial.layout.block_size,
        "weights": trial.layout.n_weights,
    }
