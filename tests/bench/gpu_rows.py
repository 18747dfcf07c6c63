"""What tests/bench/gpu.py measures: the sizes, the networks and data, and a function for each row.

A row's function returns seconds, rate and unit, the batch, and what it is an extrapolation of.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modeling.baselines.pix2pix_training import Pix2PixConfig, Pix2PixTraining
from modeling.baselines.recipe import ScratchRecipe
from modeling.flops import count_flops, weights_of
from modeling.precision import training_pass
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters
from modeling.targets.base_training import BaseTraining
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.families import frozen_target, make_target
from modeling.targets.lora import AdaptedTranslator, Adapter
from modeling.targets.recipe import FineTuning, Training, base_recipe, finetune_recipe
from modeling.targets.shapes import DiscriminatorConfig, ResNetGeneratorConfig, TranslatorConfig
from modeling.weights.codec import BlockLayout
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.interface import GeneratorConfig, TextBatch, WeightGenerator
from modeling.weights.normalisation import Normalisation
from modeling.weights.recipe import GeneratorRecipe
from modeling.weights.weight_generator import build, predict_blocks

TOKENS = 12
# of the `paper` preset; tests/modeling/test_gpu_bench.py compares
THREE = (
    "stem.conv",
    "head",
    *(f"transformer.{a}_attention.{m}" for a in ("self", "cross") for m in ("query", "key")),
    *(f"transformer.{a}_attention.{m}" for a in ("self", "cross") for m in ("value", "out")),
)
PAPER_RANKS = {**dict.fromkeys(THREE, 3), "transformer.expand": 8, "transformer.contract": 8}


@dataclass(frozen=True)
class Sizes:
    """What is measured, and for how long; the defaults are the paper's."""

    side: int = 256
    translator: TranslatorConfig = field(
        default_factory=lambda: TranslatorConfig(
            width=64, downs=2, feed_forward=4, gated=True, dropout=0.1, text_dim=768
        )
    )
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    rank: int = 6
    ranks: dict[str, int] = field(default_factory=lambda: dict(PAPER_RANKS))
    block_size: int = 256
    generator: dict[str, Any] = field(
        default_factory=lambda: {
            "width": 1280,
            "depth": 2,
            "heads": 8,
            "channels": (320, 640, 1280),
            "prediction": "epsilon",
        }
    )
    pairs: int = 400
    epochs: int = 20
    batch: int = 8
    batches: tuple[int, ...] = (8, 32, 128)
    """Of a fine-tune: the recipe's, and larger ones over as many pictures."""
    together: tuple[int, ...] = (1, 4, 16, 64)
    generator_batches: tuple[tuple[int, int], ...] = ((2, 8), (8, 64))
    """Concepts × blocks a step: the preset's of one worker, and its 32 workers' 512 at once."""
    pix2pix_width: int = 64
    steps: int = 20
    """Measured at the smallest size of a row; fewer at larger ones."""
    warm: int = 3


SMALL = Sizes(
    side=16,
    translator=TranslatorConfig(width=4, downs=1, edge_kernel=3, heads=2, text_dim=8, dropout=0.1),
    discriminator=DiscriminatorConfig(width=4, layers=1),
    rank=2,
    ranks={},
    block_size=64,
    generator={"width": 16, "depth": 1, "heads": 2, "channels": (8, 16), "prediction": "epsilon"},
    pairs=8,
    batch=2,
    batches=(2, 4),
    together=(1, 2),
    generator_batches=((2, 4),),
    pix2pix_width=4,
    steps=2,
    warm=1,
)


def now(device: str) -> float:
    """The clock, once the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step_seconds(step: Callable[[], object], device: str, warm: int, steps: int) -> float:
    """Mean wall-clock of a call, after `warm` that do not count."""
    for _ in range(warm):
        step()
    begun = now(device)
    for _ in range(steps):
        step()
    return (now(device) - begun) / steps


class Bench:
    """The networks and data that the rows share, made once on the device."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        self.sizes, self.device = sizes, device
        torch.manual_seed(0)
        self.adapted = AdaptedTranslator(frozen_target(sizes.translator), sizes.rank, sizes.ranks)
        shapes, groups = self.adapted.shapes, self.adapted.groups
        self.layout = BlockLayout.build(shapes, groups, 1, sizes.block_size)
        start = self.layout.to_blocks(self.adapted.zero_adapter())
        self.blocks = start + 0.01 * torch.randn(4, *start.shape)
        self.normalisation = Normalisation.fit(self.blocks, self.layout).to(device)
        self.adapted.to(device)
        self.critic = PatchDiscriminator(sizes.discriminator).to(device)
        pictures = torch.randint(0, 256, (2, sizes.pairs, 3, sizes.side, sizes.side))
        self.source, self.edited = pictures.to(torch.uint8).to(device)
        self.tokens = torch.randn(TOKENS, sizes.translator.text_dim, device=device)
        text = {"text_dim": sizes.translator.text_dim}
        blocks = {"block_size": sizes.block_size, "n_blocks": self.layout.n_blocks}
        self.shape = GeneratorConfig.from_dict(
            {"kind": "unet", **blocks, **text, **sizes.generator}
        )
        with torch.device(device):
            self.generator: WeightGenerator = build(self.shape)

    def text(self, count: int) -> TextBatch:
        tokens = self.tokens.expand(count, -1, -1)
        mask = torch.ones(count, TOKENS, dtype=torch.bool, device=self.device)
        return TextBatch(tokens, mask, tokens[:, 0])

    def predict(self) -> Tensor:
        """Normalised blocks [1, N, b] in one step."""
        return predict_blocks(
            self.generator, self.shape.noise_schedule(), self.text(1), t=900, seed=0
        )

    def load(self, predicted: Tensor) -> Adapter:
        """The adapter of these blocks, checked as serving does."""
        adapter = self.layout.from_blocks(self.normalisation.invert(predicted.float())[0])
        self.adapted.check(adapter)
        return adapter

    def adapter_step(
        self, start: Adapter, count: int, steps: int, batch: int = 0, way: str | None = None
    ) -> float:
        """Mean seconds of a fine-tuning step of `count` concepts in one batch."""
        sizes, stamps = self.sizes, []
        concepts = [
            ConceptData(str(i), self.source, self.edited, self.tokens) for i in range(count)
        ]
        total = sizes.warm + steps

        def stamp(step: int, _: object) -> None:
            if step in (sizes.warm, total):  # between them nobody waits
                stamps.append(now(self.device))

        recipe = finetune_recipe(FineTuning(steps=total, batch=batch or sizes.batch, lr=1.5e-3))
        train_adapters(
            self.adapted,
            concepts,
            [start] * count,
            recipe,
            self.critic,
            seed=0,
            on_step=stamp,
            way=way,
        )
        return (stamps[1] - stamps[0]) / steps

    def concept(self, batch: int = 0) -> dict[str, Any]:
        """A new concept: predicted, loaded, fine-tuned by the paper's recipe.

        At a larger batch over as many pictures, in fewer steps: whether they end as low is not
        measured here, where the pictures are noise.
        """
        sizes, device = self.sizes, self.device
        batch = batch or sizes.batch
        predict = step_seconds(self.predict, device, 1, 3)
        predicted = self.predict()
        load = step_seconds(lambda: self.load(predicted), device, 1, 3)
        # random weights predict random blocks: training them could overflow, so not from those
        few = max(2, sizes.steps * sizes.batch // batch)
        step = self.adapter_step(self.adapted.zero_adapter(), 1, few, batch)
        total = sizes.pairs * sizes.epochs // batch
        return {
            "sizes": f"{sizes.side}×{sizes.side}, {self.layout.n_blocks} blocks",
            "batch": batch,
            "weights": weights_of(self.adapted.network),
            "generator_weights": weights_of(self.generator),
            "predict_s": predict,
            "load_s": load,
            "step_s": step,
            "finetune_s": step * total,
            "seconds": predict + load + step * total,
            "rate": batch / step,
            "unit": "images/s of fine-tuning",
            "extrapolated": f"{sizes.pairs} pairs × {sizes.epochs} epochs ÷ batch {batch} ="
            f" {total} steps, extrapolated from {few} steps",
        }

    def together(self, count: int, way: str | None) -> dict[str, Any]:
        """`count` concepts trained in one batch, by one of the ways."""
        steps = max(2, self.sizes.steps // count)
        step = self.adapter_step(self.adapted.zero_adapter(), count, steps, way=way)
        return self._collecting(count, steps, step)

    def by_peft(self) -> dict[str, Any]:
        """One concept by PEFT's own layers, as a user would write it: Eq. (4), one after another.

        ImportError where peft is missing.
        """
        from peft import get_peft_model

        sizes, device = self.sizes, self.device
        model = get_peft_model(copy.deepcopy(self.adapted.network), self.adapted.lora_config)
        model.to(device).train()
        critic = copy.deepcopy(self.critic)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(learned, lr=1.5e-3, betas=(0.5, 0.999))
        critic_optimiser = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
        tokens, mask, _ = self.text(1)

        def step() -> None:
            index = torch.randint(sizes.pairs, (sizes.batch,), device=device)
            source, edited = to_unit(self.source[index]), to_unit(self.edited[index])
            fake = training_pass(model, source, tokens, mask)
            shown = edited, fake.detach()
            scores = [training_pass(critic, source, image) for image in shown]
            critic_optimiser.zero_grad()
            discriminator_loss(*scores).backward()
            critic_optimiser.step()
            verdict = adversarial_loss(training_pass(critic, source, fake))
            optimiser.zero_grad()
            (100 * (fake - edited).abs().mean() + verdict).backward()
            optimiser.step()

        return self._collecting(1, sizes.steps, step_seconds(step, device, sizes.warm, sizes.steps))

    def _collecting(self, count: int, steps: int, step: float) -> dict[str, Any]:
        sizes = self.sizes
        total = sizes.pairs * sizes.epochs // sizes.batch
        return {
            "sizes": f"{count} concepts at {sizes.side}×{sizes.side}",
            "concepts": count,
            "batch": sizes.batch,
            "steps": steps,
            "seconds": step,
            "rate": count * sizes.batch / step,
            "unit": "images/s",
            "concepts_per_hour": 3600 * count / (step * total),
            "extrapolated": f"a concept is {total} steps",
        }

    def base(self) -> dict[str, Any]:
        """A training step of the base."""
        sizes, device, count = self.sizes, self.device, self.sizes.batch
        recipe = base_recipe(Training(steps=80000, batch=count, lr=2e-4))
        critic = PatchDiscriminator(sizes.discriminator).to(device)
        training = BaseTraining(make_target(sizes.translator).to(device), critic, recipe)
        source, edited = (to_unit(x[:count]) for x in (self.source, self.edited))
        tokens, mask, _ = self.text(count)
        row = self._training(
            lambda: training.step(source, edited, tokens, mask), count, sizes.steps
        )
        return {"sizes": f"{sizes.side}×{sizes.side}", "batch": count, "unit": "images/s", **row}

    def weight_generator(self, concepts: int, blocks: int) -> dict[str, Any]:
        """A training step of the weight generator, of Eq. (1)."""
        blocks = min(blocks, self.layout.n_blocks)
        recipe = GeneratorRecipe(steps=1000000, lr=1e-5, blocks_per_concept=blocks, ema=0.9999)
        training = GeneratorTraining(
            self.generator, self.layout, self.normalisation, recipe, seed=0
        )
        raw = self.blocks[torch.arange(concepts) % len(self.blocks)]
        text, count = self.text(concepts), concepts * blocks
        steps = max(2, self.sizes.steps * 16 // max(16, count))
        row = self._training(lambda: training.step(raw, text), count, steps)
        self.generator.zero_grad(set_to_none=True)
        return {"sizes": f"{concepts} concepts × {blocks} blocks", "unit": "blocks/s", **row}

    def pix2pix(self) -> dict[str, Any]:
        """A training step of pix2pix, whose recipe has 800 pairs, 200 epochs and batch 1."""
        sizes, count = self.sizes, min(self.sizes.steps, self.sizes.pairs)
        config = Pix2PixConfig(
            ResNetGeneratorConfig(width=sizes.pix2pix_width, dropout=0.5),
            replace(sizes.discriminator, norm="batch"),
            norm="instance",
        )
        source, edited = self.source[:count], self.edited[:count]
        training = Pix2PixTraining(config, ScratchRecipe(), source, edited, 0, self.device)
        training.train(1)
        begun = now(self.device)
        training.train(2)
        step = (now(self.device) - begun) / count
        return {
            "sizes": f"{sizes.side}×{sizes.side}",
            "batch": 1,
            "step_s": step,
            "seconds": step * 800 * 200,
            "rate": 1 / step,
            "unit": "images/s",
            "extrapolated": f"800 pairs × 200 epochs, extrapolated from {count} steps",
        }

    def _training(self, step: Callable[[], object], items: int, steps: int) -> dict[str, Any]:
        flops = count_flops(step)  # the first warm step, too
        seconds = step_seconds(step, self.device, self.sizes.warm, steps)
        return {
            "batch": items,
            "steps": steps,
            "seconds": seconds,
            "rate": items / seconds,
            "step_flops": flops,
            "flops_per_s": flops / seconds,
        }
