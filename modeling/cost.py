"""What the networks cost: FLOPs and weights, counted by running them on tensors without data.

Counted as modeling/flops.py does. What a diffusion model costs is in editors/diffusion/costs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.flops import META, count_flops, weights_of
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target, make_target
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.shapes import DiscriminatorConfig, TargetConfig
from modeling.weights.gradient_basis import GradientBasis
from modeling.weights.interface import GeneratorConfig
from modeling.weights.refiner import Refiner, RefinerConfig
from modeling.weights.weight_generator import build

TOKENS = 12
"""Tokens of a prompt, for counting: they cost little whatever their number."""


@dataclass(frozen=True)
class Anchor:
    """A time that the paper reports, on one H100."""

    what: str
    items: int
    seconds: float
    unit: str = "images"

    @property
    def per_second(self) -> float:
        return self.items / self.seconds


ANCHORS = {
    "pix2pix": Anchor("pix2pix, 9 ResNet blocks: 800 images × 200 epochs", 800 * 200, 659.8),
    "training": Anchor("E²GAN with LoRA: 400 images × 100 epochs", 400 * 100, 198.5),
    "finetune": Anchor("fine-tune from a prediction: 400 images × 20 epochs", 400 * 20, 42.1),
    "prediction": Anchor("1-D UNet: one adapter, batches of 64", 854, 1.19, "blocks"),
}
"""Secs. 5.1 and 5.2, Tables 1 and 2."""


class TranslatorCost:
    """FLOPs of a translator, its adapter and its discriminator, for one image of `size` pixels.

    Steps follow modeling/targets/adapter_training.py and modeling/targets/base_training.py; `batch`
    images share what is done once a step (forming W + B·A).
    """

    def __init__(
        self,
        translator: TargetConfig,
        discriminator: DiscriminatorConfig,
        size: int,
        rank: int,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.config, self.size = translator, size
        self.adapted = AdaptedTranslator(frozen_target(translator), rank, ranks)
        self.weights = weights_of(self.adapted.network)
        self.adapted.to(META)
        self.critic = PatchDiscriminator(discriminator).to(META)
        self.critic_weights = weights_of(self.critic)

    def forward(self, batch: int = 1) -> float:
        """One adapter's picture."""

        def call() -> None:
            with torch.no_grad():
                self._adapted(batch)

        return count_flops(call) / batch

    def adapter_step(self, batch: int, *, gan: bool) -> float:
        """A step of adapter training by Eq. (4), or by L1 alone."""
        return self._step(lambda: self._adapted(batch), batch, gan)

    def base_step(self, batch: int, *, gan: bool) -> float:
        """A step of training the whole translator."""
        with META:
            network = make_target(self.config)
        x, tokens, mask = self._inputs(batch)
        shape = (tokens.expand(batch, -1, -1), mask.expand(batch, -1))
        return self._step(lambda: network(x, *shape), batch, gan)

    def _step(self, draw: Callable[[], Tensor], batch: int, gan: bool) -> float:
        def call() -> None:
            x = self._inputs(batch)[0]
            fake = draw()
            if not gan:
                fake.sum().backward()
                return
            judged = self.critic(x, x).sum() + self.critic(x, fake.detach()).sum()
            judged.backward()
            self.critic.requires_grad_(False)
            self.critic(x, fake).sum().backward()
            self.critic.requires_grad_(True)

        return count_flops(call) / batch

    def _inputs(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.empty(batch, 3, self.size, self.size, device=META)
        tokens = torch.empty(1, TOKENS, self.config.text_dim, device=META)
        return x, tokens, torch.ones(1, TOKENS, dtype=torch.bool, device=META)

    def _adapted(self, batch: int) -> Tensor:
        x, tokens, mask = self._inputs(batch)
        adapter = {k: v.requires_grad_() for k, v in self.adapted.zero_adapter().items()}
        return self.adapted(adapter, x, tokens[0], mask[0])


class GeneratorCost:
    """FLOPs of a weight generator for one block."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        with META:
            self.model = build(config)
        self.weights = weights_of(self.model)

    def forward(self, blocks: int) -> float:
        """Of `blocks` blocks of one concept in a call."""

        def call() -> None:
            with torch.no_grad():
                self._run(blocks)

        return count_flops(call) / blocks

    def step(self, blocks: int) -> float:
        """Of a training step, forward and backward."""
        return count_flops(lambda: self._run(blocks).sum().backward()) / blocks

    def _run(self, blocks: int) -> Tensor:
        c = self.config
        noisy = torch.empty(1, blocks, c.block_size, device=META)
        index = torch.arange(blocks, device=META)
        tokens = torch.empty(1, TOKENS, c.text_dim, device=META)
        mask = torch.ones(1, TOKENS, dtype=torch.bool, device=META)
        pooled = torch.empty(1, c.text_dim, device=META)
        before = (torch.empty_like(noisy),) if c.sequential else ()
        time = torch.zeros(1, dtype=torch.long, device=META)
        return self.model(noisy, time, index, tokens, mask, pooled, *before)


def refiner_pass(config: RefinerConfig) -> float:
    """FLOPs of one pass of a refiner over all blocks of one concept."""
    n, b = config.n_blocks, config.block_size
    with META:
        basis = GradientBasis(torch.empty(n, b, b), count=0, layout_digest="")
        model = Refiner(config, basis)
        blocks, loss = torch.empty(1, n, b), torch.empty(1)
        tokens, pooled = torch.empty(1, TOKENS, config.text_dim), torch.empty(1, config.text_dim)
        mask = torch.ones(1, TOKENS, dtype=torch.bool)

    def call() -> None:
        with torch.no_grad():
            model(blocks, blocks, loss, 0, 1, tokens, mask, pooled)

    return count_flops(call)
