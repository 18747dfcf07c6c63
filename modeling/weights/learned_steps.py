"""Learned steps from example pairs: what a refiner makes of a predicted adapter, and its training.

A step costs a gradient of the image loss on a few pairs and one pass of the refiner. In training
each of the K steps is scored on other pairs of the concept; gradients of the image loss are inputs,
nothing is differentiated through them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from modeling import training_state
from modeling.losses import Losses
from modeling.precision import training_pass
from modeling.targets.adapter_training import batch_order
from modeling.transfer import to_device
from modeling.weights.ema import EMA
from modeling.weights.image_loss import ImageBatch, ImageLoss
from modeling.weights.interface import TextBatch
from modeling.weights.invented import invented
from modeling.weights.recipe import RefinerRecipe
from modeling.weights.refiner import Refiner, change


def learned_steps(
    refiner: Refiner,
    loss: ImageLoss,
    blocks: Tensor,
    source: Tensor,
    edited: Tensor,
    text: TextBatch,
    steps: int,
    pairs: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """After each of `steps` learned steps the blocks [B, N, b], normalised, and the loss [B] on
    the pairs that the step was taken on, before it.

    source, edited: uint8 [B, M, 3, H, W], the example pairs of B concepts; each step takes its
    gradient on `pairs` of them, all if there are fewer, in an order that `seed` decides.
    """
    mask = loss.layout.mask.to(blocks.device)
    used = min(pairs, source.shape[1])
    for k, index in enumerate(batch_order(source.shape[1], steps, used, seed)):
        index = index.to(source.device)
        gradient, at = loss.gradient(blocks, source[:, index], edited[:, index], text)
        with torch.no_grad():
            blocks = blocks + change(refiner, blocks, gradient, at, k, used, text) * mask
        yield blocks, at


class RefinerTraining:
    """One step at a time; every random draw depends on seed, step and rank alone."""

    def __init__(
        self,
        model: Refiner,
        loss: ImageLoss,
        recipe: RefinerRecipe,
        seed: int,
        wrapped: nn.Module | None = None,
        rank: int = 0,
    ) -> None:
        self.model = model
        self.forward: nn.Module = model if wrapped is None else wrapped
        self.loss, self.recipe, self.seed, self.rank = loss, recipe, seed, rank
        self.device = next(model.parameters()).device
        self.mask = loss.layout.mask.to(self.device)
        self.zero = loss.zero().to(self.device)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.ema = EMA(model, recipe.ema)
        self.losses = Losses("refiner")
        self.done = 0

    def step(self, predicted: Tensor, examples: ImageBatch) -> dict[str, Tensor]:
        """One update on the predictions [B, N, b], normalised, of the examples' concepts.

        Returns the image loss of the start and after each learned step, scalars on the device;
        FloatingPointError if one is not finite, of this step or one of the last.
        """
        recipe = self.recipe
        rng = torch.Generator().manual_seed((self.seed * 1_000_003 + self.done) * 4096 + self.rank)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.done)
        source = to_device(examples.source, self.device)
        edited = to_device(examples.edited, self.device).clone()
        text = TextBatch(*(to_device(v, self.device) for v in examples.text))
        blocks = self._starts(to_device(predicted, self.device), rng)
        new = torch.rand(len(blocks), generator=rng) < recipe.invented
        edited[new] = invented(edited[new], rng)
        told = self._told(text, new, rng)
        count, pairs = self._pairs(source.shape[1], rng)
        shown, scored = slice(count), slice(count, None)
        fixed = bool(torch.rand((), generator=rng) < recipe.same_pairs)
        losses: dict[str, Tensor] = {}
        unit = torch.ones((), device=self.device)
        total = torch.zeros((), device=self.device)
        for k in range(recipe.iterations):
            index = torch.arange(pairs) if fixed else torch.randperm(count, generator=rng)[:pairs]
            index = to_device(index, self.device)
            gradient, at = self.loss.gradient(
                blocks, source[:, shown][:, index], edited[:, shown][:, index], text
            )
            if not k:
                losses["start"] = at.mean()
                unit = at.clamp_min(1e-6)
            step = training_pass(change, self.forward, blocks, gradient, at, k, pairs, told)
            blocks = blocks + step * self.mask
            score = self.loss(blocks, source[:, scored], edited[:, scored], text)
            losses[f"after {k + 1}"] = score.mean().detach()
            # in parts of where it started: far starts would else decide alone
            total = total + (score / unit).mean() / recipe.iterations
        self.losses.add(self.done + 1, total)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimiser.step()
        self.ema.update(self.model)
        self.done += 1
        return losses

    def _starts(self, predicted: Tensor, rng: torch.Generator) -> Tensor:
        """Some at the zero adapter, some at another concept's prediction, some off by noise."""
        recipe, count = self.recipe, len(predicted)
        draw = torch.rand(count, generator=rng)[:, None, None]
        size = recipe.start_noise * torch.rand(count, generator=rng)[:, None, None]
        noise = to_device(size * torch.randn(predicted.shape, generator=rng), predicted.device)
        other = recipe.from_zero + recipe.from_other
        for below, start in (
            (other + recipe.from_noise, predicted + noise * self.mask),
            (other, predicted.roll(1, 0)),
            (recipe.from_zero, self.zero),
        ):
            predicted = torch.where(to_device(draw < below, self.device), start, predicted)
        return predicted

    def _told(self, text: TextBatch, new: Tensor, rng: torch.Generator) -> TextBatch:
        """The texts as the refiner gets them: none of invented concepts, and of some others."""
        untold = torch.rand(len(new), generator=rng) < self.recipe.no_text
        told = to_device(~(untold | new), self.device)[:, None]
        return TextBatch(text.tokens, text.mask & told, text.pooled * told)

    def _pairs(self, given: int, rng: torch.Generator) -> tuple[int, int]:
        """How many of the pairs are for gradients, and how many of them a step sees: 1, 2, 4, …"""
        count = given - self.recipe.scored
        if count < 1:
            raise ValueError(f"{given} pairs: more than refine.scored={self.recipe.scored} needed")
        choices = [2**i for i in range(count.bit_length())]
        return count, choices[int(torch.randint(len(choices), (), generator=rng))]

    def state(self) -> bytes:
        """All of it; FloatingPointError if a loss was not finite."""
        self.losses.check()
        return training_state.pack(
            self._modules(torch.tensor(self.ema.updates)), {"model": self.optimiser}, self.done
        )

    def load_state(self, data: bytes) -> None:
        updates = torch.tensor(0)
        modules, optimisers = self._modules(updates), {"model": self.optimiser}
        self.done = training_state.unpack(data, modules, optimisers)
        self.ema.updates = int(updates)

    def _modules(self, updates: Tensor) -> dict[str, nn.Module | dict[str, Tensor]]:
        return {"model": self.model, "ema": self.ema.average, "counters": {"updates": updates}}
