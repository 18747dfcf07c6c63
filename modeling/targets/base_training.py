"""Training of the base translator on a mixture of representative concepts (E²GAN; Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeling import training_state
from modeling.compiling import compiled
from modeling.losses import Losses
from modeling.precision import training_pass
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.network import TargetNetwork
from modeling.targets.recipe import Recipe


class BaseTraining:
    """Translator and discriminator in alternation; every sample carries its own prompt.

    `translator` and `discriminator` may be wrapped for data-parallel training; the bare modules
    are given beside them. The translator is brought to the channels-last layout, in which it trains
    a quarter faster on a CPU.
    """

    def __init__(
        self,
        translator: TargetNetwork,
        discriminator: PatchDiscriminator,
        recipe: Recipe,
        wrapped_translator: nn.Module | None = None,
        wrapped_discriminator: nn.Module | None = None,
    ) -> None:
        self.translator = translator.to(memory_format=torch.channels_last)
        self.discriminator, self.recipe = discriminator, recipe
        self.forward = compiled(translator if wrapped_translator is None else wrapped_translator)
        self.judge = compiled(
            discriminator if wrapped_discriminator is None else wrapped_discriminator
        )
        self.verdict = compiled(discriminator)
        self.optimiser = torch.optim.Adam(translator.parameters(), lr=recipe.lr, betas=(0.5, 0.999))
        self.critic_optimiser = torch.optim.Adam(
            discriminator.parameters(), lr=recipe.discriminator_lr, betas=(0.5, 0.999)
        )
        self.losses = Losses("base training")
        self.done = 0

    def step(
        self, source: Tensor, edited: Tensor, tokens: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """One update on images [B, 3, H, W] in [-1, 1], tokens [B, L, D], mask [B, L].

        Returns the losses, scalars on the device; FloatingPointError if one is not finite, of this
        step or one of the last (modeling/losses.py).
        """
        recipe = self.recipe
        source, edited = (x.contiguous(memory_format=torch.channels_last) for x in (source, edited))
        self.forward.train()
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.done)
        fake = training_pass(self.forward, source, tokens, mask)
        critic = torch.zeros((), device=source.device)
        if recipe.gan_weight:
            loss_d = discriminator_loss(
                training_pass(self.judge, source, edited),
                training_pass(self.judge, source, fake.detach()),
            )
            self.critic_optimiser.zero_grad(set_to_none=True)
            loss_d.backward()
            self.critic_optimiser.step()
            critic = loss_d.detach()
        l1 = (fake - edited).abs().mean()
        loss = recipe.l1_weight * l1
        if recipe.gan_weight:
            self.discriminator.requires_grad_(False)
            verdict = adversarial_loss(training_pass(self.verdict, source, fake))
            loss = loss + recipe.gan_weight * verdict
            self.discriminator.requires_grad_(True)
        self.losses.add(self.done + 1, loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.done += 1
        return {"l1": l1.detach(), "discriminator": critic}

    def state(self) -> bytes:
        """All of it; FloatingPointError if a loss was not finite."""
        self.losses.check()
        return training_state.pack(self._modules(), self._optimisers(), self.done)

    def load_state(self, data: bytes) -> None:
        self.done = training_state.unpack(data, self._modules(), self._optimisers())

    def _modules(self) -> dict[str, nn.Module]:
        return {"translator": self.translator, "discriminator": self.discriminator}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"translator": self.optimiser, "discriminator": self.critic_optimiser}
