"""pix2pix (Isola et al. 2017) with a ResNet generator, by the recipe of its PyTorch code.

λ = 100 for L1, a vanilla GAN loss that is halved for the discriminator, Adam with betas (0.5,
0.999). By default nothing is cropped or mirrored, unlike there, so that all methods see the same
pixels; `ScratchRecipe.jitter` and `.flips` bring it back. There dropout is on in translation as
well; here translation is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modeling.baselines.recipe import ScratchRecipe
from modeling.baselines.scratch_training import ScratchTraining
from modeling.precision import training_pass
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.resnet_generator import ResNetGenerator
from modeling.targets.shapes import DiscriminatorConfig, ResNetGeneratorConfig


@dataclass(frozen=True)
class Pix2PixConfig:
    """The two networks, and the norm of the generator."""

    generator: ResNetGeneratorConfig = field(
        default_factory=lambda: ResNetGeneratorConfig(dropout=0.5)
    )
    discriminator: DiscriminatorConfig = field(
        default_factory=lambda: DiscriminatorConfig(norm="batch")
    )
    norm: str = "batch"
    """batch | instance: of the generator. At pix2pix's own batch of 1 both train alike, and it
    translates by the image's own statistics, as instance does, not by running ones."""

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "instance"):
            raise ValueError(f"norm={self.norm!r}: must be batch or instance")


class Pix2PixTraining(ScratchTraining):
    """See ScratchTraining; Eq. (4) without text, on all weights."""

    method = "pix2pix"

    def __init__(
        self,
        config: Pix2PixConfig,
        recipe: ScratchRecipe,
        source: Tensor,
        edited: Tensor,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        super().__init__(recipe, source, edited, seed, device)

    def _build(self) -> tuple[nn.Module, nn.Module]:
        generator = ResNetGenerator(self.config.generator)
        if self.config.norm == "instance":
            _use_instance_norm(generator)
        return generator, PatchDiscriminator(self.config.discriminator)

    def _optimiser(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999))

    def _step(self, source: Tensor, edited: Tensor, step: int) -> tuple[Tensor, Tensor]:
        recipe, critic = self.recipe, self.discriminator
        self.generator.train()
        fake = training_pass(self.generator, source)
        if recipe.gan_weight:
            judged = discriminator_loss(
                training_pass(critic, source, edited), training_pass(critic, source, fake.detach())
            )
            self.critic_optimiser.zero_grad(set_to_none=True)
            judged.backward()
            self.critic_optimiser.step()
        l1 = (fake - edited).abs().mean()
        loss = recipe.l1_weight * l1
        if recipe.gan_weight:
            critic.requires_grad_(False)
            loss = loss + recipe.gan_weight * adversarial_loss(training_pass(critic, source, fake))
            critic.requires_grad_(True)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.generator.eval()
        return l1.detach(), loss.detach()

    def _translate(self, source: Tensor) -> Tensor:
        return self.generator(source)


def _use_instance_norm(network: nn.Module) -> None:
    """Replace every BatchNorm by an instance norm with the same weights.

    As a group norm of one channel a group, which is the same: PyTorch 2.15's instance_norm has a
    wrong gradient for one image whose gradient comes in the channels-last layout.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = nn.GroupNorm(child.num_features, child.num_features, eps=child.eps)
            norm.weight, norm.bias = child.weight, child.bias
            setattr(network, name, norm)
        else:
            _use_instance_norm(child)
