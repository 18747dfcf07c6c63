"""Training of a weight generator: Eq. (1) on weight blocks, then, optionally, the image loss.

The image loss decodes the prediction from pure noise into adapters and runs them through the
frozen translator; its gradient says which weight errors show in pictures. It is L1, or Eq. (4),
L1 and a discriminator, which the paper tried as such a term and dropped (Sec. 4.4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeling import training_state
from modeling.compiling import compiled
from modeling.losses import Losses
from modeling.precision import training_pass
from modeling.targets.adapter_training import to_unit
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.lora import AdaptedTranslator
from modeling.transfer import to_device
from modeling.weights.codec import BlockLayout
from modeling.weights.ema import EMA
from modeling.weights.image_loss import ImageBatch
from modeling.weights.interface import TextBatch, WeightGenerator
from modeling.weights.normalisation import Normalisation
from modeling.weights.recipe import GeneratorRecipe
from modeling.weights.weight_generator import denoising_loss, predict_blocks


class GeneratorTraining:
    """One step at a time; every random draw depends on seed, step and rank alone."""

    def __init__(
        self,
        model: WeightGenerator,
        layout: BlockLayout,
        normalisation: Normalisation,
        recipe: GeneratorRecipe,
        seed: int,
        translator: AdaptedTranslator | None = None,
        wrapped: nn.Module | None = None,
        rank: int = 0,
        discriminator: PatchDiscriminator | None = None,
        wrapped_discriminator: nn.Module | None = None,
    ) -> None:
        if recipe.image_steps and translator is None:
            raise ValueError("image_steps > 0 needs the frozen translator")
        if recipe.image_steps and recipe.image_gan and discriminator is None:
            raise ValueError("image_gan > 0 needs a discriminator to start from")
        self.model = model
        self.forward: nn.Module = compiled(model if wrapped is None else wrapped)
        self.layout, self.normalisation, self.recipe = layout, normalisation, recipe
        self.translator, self.seed, self.rank = translator, seed, rank
        self.device = next(model.parameters()).device
        self.schedule = model.config.noise_schedule()
        self.mask = layout.mask.to(self.device)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.ema = EMA(model, recipe.ema)
        self.critic = discriminator if recipe.image_steps and recipe.image_gan else None
        if self.critic is not None:
            self.judge: nn.Module = self.critic
            if wrapped_discriminator is not None:
                self.judge = wrapped_discriminator
            self.critic_optimiser = torch.optim.Adam(
                self.critic.parameters(), lr=recipe.discriminator_lr, betas=(0.5, 0.999)
            )
        self.losses = Losses("weight generator")
        self.done = 0

    def step(
        self, blocks: Tensor, text: TextBatch, images: ImageBatch | None = None
    ) -> dict[str, Tensor]:
        """One update on raw (not normalised) blocks [B, N, b] and their texts.

        In the second phase `images` must be given, and Eq. (1)'s blocks and text are not used if
        it has no weight there. Returns the losses, scalars on the device; FloatingPointError if
        one is not finite, of this step or one of the last (modeling/losses.py).
        """
        recipe = self.recipe
        seed = (self.seed * 1_000_003 + self.done) * 4096 + self.rank
        rng = torch.Generator().manual_seed(seed)
        on_images = self.done >= recipe.steps
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.done)
        torch.manual_seed(seed)  # dropout
        self.forward.train()
        losses: dict[str, Tensor] = {}
        loss = torch.zeros((), device=self.device)
        if not on_images or recipe.image_denoising:
            loss = self._denoising(blocks, text, rng, every_block=on_images)
            losses["denoising"] = loss.detach()
        if on_images:
            if images is None:
                raise ValueError(f"step {self.done + 1} is on the image loss: give images")
            images = ImageBatch(
                to_device(images.source, self.device),
                to_device(images.edited, self.device),
                self._to_device(images.text),
            )
            fake = self.pictures(images, rng)
            l1 = (fake - to_unit(images.edited)).abs().mean()
            losses["image"] = l1.detach()
            loss = recipe.image_denoising * loss + recipe.image_weight * l1
            if self.critic is not None:
                adversarial, losses["discriminator"] = self._adversarial(images, fake)
                loss = loss + recipe.image_gan * adversarial
        self.losses.add(self.done + 1, loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimiser.step()
        self.ema.update(self.model)
        self.done += 1
        return losses

    def _denoising(
        self, blocks: Tensor, text: TextBatch, rng: torch.Generator, *, every_block: bool
    ) -> Tensor:
        """Eq. (1) at random time steps, on some of the blocks if the recipe says so."""
        recipe, n = self.recipe, self.layout.n_blocks
        text = self._noised(self._to_device(text), rng)
        x0 = self.normalisation.apply(to_device(blocks, self.device))
        count = x0.shape[0]
        chosen = torch.arange(n)
        if recipe.blocks_per_concept and not every_block:
            chosen = torch.randperm(n, generator=rng)[: recipe.blocks_per_concept]
        t = torch.randint(recipe.t_min, self.model.config.steps, (count,), generator=rng)
        eps = torch.randn((count, len(chosen), x0.shape[-1]), generator=rng)
        chosen = to_device(chosen, self.device)
        previous = None
        if self.model.config.sequential:  # the true one, as for a sequence's next word
            previous = torch.cat([torch.zeros_like(x0[:, :1]), x0], dim=1)[:, chosen]
        return training_pass(
            denoising_loss,
            self.forward,
            self.schedule,
            x0[:, chosen],
            chosen,
            self.mask[chosen],
            text,
            to_device(t, self.device),
            to_device(eps, self.device),
            previous,
        )

    def pictures(self, images: ImageBatch, rng: torch.Generator) -> Tensor:
        """What the adapters predicted from pure noise make of the sources, in [-1, 1].

        The translator reads the prompt as it is, the weight generator reads it with noise.
        """
        assert self.translator is not None
        clean = self._to_device(images.text)
        text = self._noised(clean, rng)
        config = self.model.config
        shape = (text.tokens.shape[0], config.n_blocks, config.block_size)
        noise = to_device(torch.randn(shape, generator=rng), self.device)
        predicted = training_pass(
            predict_blocks,
            self.forward,
            self.schedule,
            text,
            self.recipe.image_t,
            noise=noise,
            differentiable=True,
            mask_w=self.mask,
        )
        adapters = self.layout.from_blocks(self.normalisation.invert(predicted))
        source = to_unit(to_device(images.source, self.device))
        return training_pass(self.translator.translate, adapters, source, clean.tokens, clean.mask)

    def _adversarial(self, images: ImageBatch, fake: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the discriminator, which all concepts share; then its verdict on `fake`."""
        assert self.critic is not None
        source, edited, fake = (
            x.flatten(0, 1)
            for x in (
                to_unit(images.source),
                to_unit(images.edited),
                fake,
            )
        )
        loss = discriminator_loss(
            training_pass(self.judge, source, edited),
            training_pass(self.judge, source, fake.detach()),
        )
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()
        self.critic.requires_grad_(False)
        verdict = adversarial_loss(training_pass(self.critic, source, fake))
        self.critic.requires_grad_(True)
        return verdict, loss.detach()

    def _to_device(self, text: TextBatch) -> TextBatch:
        return TextBatch(*(to_device(v, self.device) for v in text))

    def _noised(self, text: TextBatch, rng: torch.Generator) -> TextBatch:
        """Gaussian noise on the embedding of the weight generator's prompt, as augmentation."""
        if not self.recipe.text_noise:
            return text
        deviation = self.recipe.text_noise

        def noisy(x: Tensor) -> Tensor:
            draw = to_device(torch.randn(x.shape, generator=rng), x.device)
            return x + deviation * x.square().mean().sqrt() * draw

        return TextBatch(noisy(text.tokens), text.mask, noisy(text.pooled))

    def state(self) -> bytes:
        """All of it; FloatingPointError if a loss was not finite."""
        self.losses.check()
        return training_state.pack(
            self._modules(torch.tensor(self.ema.updates)), self._optimisers(), self.done
        )

    def load_state(self, data: bytes) -> None:
        updates = torch.tensor(0)
        self.done = training_state.unpack(data, self._modules(updates), self._optimisers())
        self.ema.updates = int(updates)

    def _modules(self, updates: Tensor) -> dict[str, nn.Module | dict[str, Tensor]]:
        out: dict[str, nn.Module | dict[str, Tensor]] = {
            "model": self.model,
            "ema": self.ema.average,
            "counters": {"updates": updates},
        }
        return out if self.critic is None else out | {"critic": self.critic}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        out: dict[str, torch.optim.Optimizer] = {"model": self.optimiser}
        return out if self.critic is None else out | {"critic": self.critic_optimiser}
