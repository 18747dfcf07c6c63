"""Training of a Co-Mod-GAN on the edits of one concept: "pix2pix-zero-distilled" of Table 1.

StyleGAN2's recipe (Karras et al. 2020): non-saturating loss, lazy R1 on real pairs, an average of
the generator's weights, optionally path-length regularisation; and L1 to the edit, which pairs
allow. Not taken over: style mixing and truncation, which serve unconditional variety. Both updates
of a step see the same generated images, which saves a forward pass.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modeling.baselines.comodgan import CoModGanConfig, CoModGenerator, StyleGanDiscriminator
from modeling.baselines.recipe import ScratchRecipe
from modeling.baselines.scratch_training import ScratchTraining
from modeling.flops import META, count_flops
from modeling.precision import training_pass
from modeling.targets.discriminator import adversarial_loss, discriminator_loss

PATH_DECAY = 0.01
"""What one update counts in the mean length of paths."""


@dataclass(frozen=True)
class CoModGanRecipe:
    """What a Co-Mod-GAN needs beside ScratchRecipe; the defaults are StyleGAN2's."""

    network: CoModGanConfig = field(default_factory=CoModGanConfig)
    r1: float = 10.0
    """γ: weight of half the squared gradient of the logits for real pairs; 0 = none."""
    r1_interval: int = 16
    """Steps from one R1 update to the next, whose weight it multiplies ("lazy")."""
    ema_images: float = 10_000.0
    """Images after which a weight counts half in the average that is kept; 0 = the last weights."""
    ema_start: float = 0.05
    """At most this part of the images seen, so that the average forgets the start."""
    path_length: float = 0.0
    """Weight of path-length regularisation; 0 = none, StyleGAN2 has 2."""
    path_interval: int = 4

    def __post_init__(self) -> None:
        if min(self.r1, self.ema_images, self.path_length) < 0 or self.ema_start <= 0:
            raise ValueError(
                f"r1, ema_images and path_length start at 0, ema_start is more than 0: {self}"
            )
        if min(self.r1_interval, self.path_interval) < 1:
            raise ValueError(f"r1_interval and path_interval start at 1: {self}")

    def decay(self, batch: int, seen: int) -> float:
        """Of the average, for a step of `batch` images after which `seen` have been seen."""
        half_life = min(self.ema_images, seen * self.ema_start)
        return 0.5 ** (batch / half_life) if half_life else 0.0


def r1_penalty(discriminator: nn.Module, source: Tensor, edited: Tensor) -> Tensor:
    """[B]: squared gradient of each pair's logit for its pixels (Mescheder et al. 2018, Eq. 9)."""
    pair = [x.detach().requires_grad_() for x in (source, edited)]
    # views: counting FLOPs follows what a module is given, which may then be no leaf
    logits = discriminator(*(x.view_as(x) for x in pair))
    gradients = torch.autograd.grad(logits.sum(), pair, create_graph=True)
    return torch.stack([g.square().sum((1, 2, 3)) for g in gradients]).sum(0)


def path_lengths(generator: CoModGenerator, source: Tensor, w: Tensor) -> Tensor:
    """[B]: ‖Jᵀy‖ of the image's Jacobian for w, which must require gradients; y ~ N(0, 1/HW).

    Karras et al. 2020, Eq. 4.
    """
    image = generator.synthesise(source, w)
    y = torch.randn_like(image) / math.sqrt(image.shape[-2] * image.shape[-1])
    (gradient,) = torch.autograd.grad((image * y).sum(), w, create_graph=True)
    return gradient.square().sum(1).sqrt()


class CoModGanTraining(ScratchTraining):
    """See ScratchTraining; what is kept is the average of the generator's weights."""

    method = "pix2pix-zero-distilled"
    networks = (*ScratchTraining.networks, "average")
    generator: CoModGenerator

    def __init__(
        self,
        config: CoModGanRecipe,
        recipe: ScratchRecipe,
        source: Tensor,
        edited: Tensor,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        super().__init__(recipe, source, edited, seed, device)
        self.average = deepcopy(self.generator).requires_grad_(False)
        self.mean_length = torch.zeros((), device=self.device)
        rng = torch.Generator().manual_seed(seed)
        self.z = torch.randn(1, config.network.z_dim, generator=rng).to(self.device)
        """Of every translation."""

    def _build(self) -> tuple[nn.Module, nn.Module]:
        network = self.config.network
        return CoModGenerator(network), StyleGanDiscriminator(network)

    def _optimiser(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        # a lazy update is one more step of Adam in each interval: App. B of the StyleGAN2 paper
        c = self.config
        lazy = c.r1_interval if isinstance(network, StyleGanDiscriminator) and c.r1 else 0
        if isinstance(network, CoModGenerator) and c.path_length:
            lazy = c.path_interval
        part = lazy / (lazy + 1) if lazy else 1.0
        return torch.optim.Adam(network.parameters(), lr=lr * part, betas=(0.0, 0.99**part))

    def _step(self, source: Tensor, edited: Tensor, step: int) -> tuple[Tensor, Tensor]:
        c = self.config
        self.generator.train()
        l1, loss = self._update(source, edited)
        if c.r1 and self.recipe.gan_weight and step % c.r1_interval == 0:
            self._regularise_critic(source, edited)
        if c.path_length and step % c.path_interval == 0:
            self._regularise_paths(source)
        self.generator.eval()
        batch = len(source)
        torch._foreach_lerp_(
            list(self.average.parameters()),
            [p.detach() for p in self.generator.parameters()],
            1 - c.decay(batch, batch * (step + 1)),
        )
        return l1, loss

    def _update(self, source: Tensor, edited: Tensor) -> tuple[Tensor, Tensor]:
        recipe, critic = self.recipe, self.discriminator
        fake = training_pass(self.generator, source, self._latents(source))
        if recipe.gan_weight:
            # twice: StyleGAN2 does not halve this loss, and γ is relative to it
            judged = 2 * discriminator_loss(
                training_pass(critic, source, edited), training_pass(critic, source, fake.detach())
            )
            _descend(self.critic_optimiser, judged)
        l1 = (fake - edited).abs().mean()
        loss = recipe.l1_weight * l1
        if recipe.gan_weight:
            critic.requires_grad_(False)
            loss = loss + recipe.gan_weight * adversarial_loss(training_pass(critic, source, fake))
            critic.requires_grad_(True)
        _descend(self.optimiser, loss)
        return l1.detach(), loss.detach()

    def _regularise_critic(self, source: Tensor, edited: Tensor) -> None:
        penalty = r1_penalty(self.discriminator, source, edited).mean()
        _descend(self.critic_optimiser, penalty * (self.config.r1 / 2 * self.config.r1_interval))

    def _regularise_paths(self, source: Tensor) -> None:
        w = self.generator.mapping(self._latents(source))
        lengths = path_lengths(self.generator, source, w)
        self.mean_length.lerp_(lengths.detach().mean(), PATH_DECAY)
        penalty = (lengths - self.mean_length).square().mean()
        _descend(self.optimiser, penalty * (self.config.path_length * self.config.path_interval))

    def _latents(self, source: Tensor) -> Tensor:
        return torch.randn(len(source), self.config.network.z_dim, device=self.device)

    def _translate(self, source: Tensor) -> Tensor:
        return self.average(source, self.z.expand(len(source), -1))

    def _modules(self) -> dict[str, nn.Module | dict[str, Tensor]]:
        return {
            **super()._modules(),
            "average": self.average,
            "paths": {"mean_length": self.mean_length},
        }

    def _on_meta(self) -> CoModGanTraining:
        probe = super()._on_meta()
        assert isinstance(probe, CoModGanTraining)
        probe.z, probe.mean_length = self.z.to(META), self.mean_length.to(META)
        return probe

    def _mean_step_flops(self, one: Tensor) -> float:
        c = self.config
        flops = count_flops(lambda: self._update(one, one))
        if c.r1 and self.recipe.gan_weight:
            flops += count_flops(lambda: self._regularise_critic(one, one)) / c.r1_interval
        if c.path_length:
            flops += count_flops(lambda: self._regularise_paths(one)) / c.path_interval
        return flops


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
