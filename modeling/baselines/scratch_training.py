"""Training of a whole network on one concept's pairs: the from-scratch baselines of Table 1.

One interface for pix2pix (pix2pix_training.py) and for the Co-Mod-GAN that
pix2pix-zero is distilled into (comodgan_training.py): both see every training pair in
every epoch, alternate an update of the discriminator with one of the generator, and keep the
generator.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import training_state
from modeling.baselines.recipe import ScratchRecipe
from modeling.flops import META, count_flops, weights_of
from modeling.targets.adapter_training import batch_order, to_uint8, to_unit


class ScratchTraining(ABC):
    """A generator and a discriminator from random weights on the pairs of one concept.

    source, edited: uint8 [M, 3, H, W], images before and after the edit; ValueError when they are
    not. On the meta device nothing is computed, but `step_flops` and `image_flops` can be asked.
    All randomness comes from `seed` alone: a resumed training equals one that was never stopped.
    """

    method: ClassVar[str]
    """As Table 1 calls it."""
    networks: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    """Attributes that are networks."""
    generator: nn.Module
    discriminator: nn.Module

    def __init__(
        self,
        recipe: ScratchRecipe,
        source: Tensor,
        edited: Tensor,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if source.shape != edited.shape or source.dim() != 4 or source.shape[1] != 3:
            raise ValueError(
                "source and edited must both be [M, 3, H, W], got"
                f" {list(source.shape)} and {list(edited.shape)}"
            )
        if source.dtype != torch.uint8 or edited.dtype != torch.uint8 or not len(source):
            raise ValueError("source and edited must be uint8 images, one or more")
        self.recipe, self.seed, self.device = recipe, seed, torch.device(device)
        self.source, self.edited = source.to(self.device), edited.to(self.device)
        self.epoch = 0
        """Epochs done."""
        self.seconds = 0.0
        """Wall-clock of the optimisation steps alone."""
        self.losses: list[float] = []
        """Mean training L1 of each epoch, images in [-1, 1]."""
        with self._random(0), self.device:
            generator, discriminator = self._build()
        # the layout in which both methods train faster on a CPU
        self.generator = generator.to(memory_format=torch.channels_last).eval()
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self._start_optimisers()

    @abstractmethod
    def _build(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator, from the global random state."""

    @abstractmethod
    def _optimiser(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        """The method's optimiser of one of the two."""

    @abstractmethod
    def _step(self, source: Tensor, edited: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Update both networks once, on images in [-1, 1].

        Returns L1 and the generator's whole loss, each a scalar tensor, without waiting for them.
        """

    @abstractmethod
    def _translate(self, source: Tensor) -> Tensor:
        """Images in [-1, 1] → images, by what is kept, deterministically."""

    def _start_optimisers(self) -> None:
        self.optimiser = self._optimiser(self.generator, self.recipe.lr)
        self.critic_optimiser = self._optimiser(self.discriminator, self.recipe.discriminator_lr)
        self._rates = {
            name: optimiser.param_groups[0]["lr"] for name, optimiser in self._optimisers().items()
        }

    def _mean_step_flops(self, one: Tensor) -> float:
        """FLOPs of `_step` on the batch `one`, averaged over the steps that cost differently."""
        return count_flops(lambda: self._step(one, one, 0))

    @property
    def trainable(self) -> int:
        """Trained weights of the network that is kept."""
        return sum(p.numel() for p in self.generator.parameters() if p.requires_grad)

    @property
    def total(self) -> int:
        """Weights of the network that is kept."""
        return weights_of(self.generator)

    @property
    def step_flops(self) -> float:
        """FLOPs of an optimisation step on a full batch, both networks, forward and backward."""
        probe = self._on_meta()
        size = self.source.shape[1:]
        return probe._mean_step_flops(torch.empty(self.recipe.batch, *size, device=META))

    @property
    def image_flops(self) -> float:
        """FLOPs of translating one image."""
        probe = self._on_meta()
        one = torch.empty(1, *self.source.shape[1:], device=META)
        with torch.no_grad():
            return count_flops(lambda: probe._translate(one))

    def train(self, until: int) -> None:
        """Go on to the end of epoch `until`.

        ValueError for an epoch that the recipe does not have; FloatingPointError when a loss is not
        finite.
        """
        recipe, count = self.recipe, len(self.source)
        if not self.epoch <= until <= recipe.epochs:
            raise ValueError(
                f"{self.method}: cannot train until epoch {until}:"
                f" {self.epoch} of {recipe.epochs} are done"
            )
        order = batch_order(count, recipe.steps(recipe.epochs, count), recipe.batch, self.seed)
        while self.epoch < until:
            for name, optimiser in self._optimisers().items():
                optimiser.param_groups[0]["lr"] = self._rates[name] * recipe.rate(self.epoch)
            first, last = (recipe.steps(self.epoch + i, count) for i in (0, 1))
            begun = self._now()
            measured = []
            for step in range(first, last):
                with self._random(step + 1):
                    measured.append(torch.stack(self._step(*self._batch(order[step]), step)))
            self.seconds += self._now() - begun
            self._record(torch.stack(measured), first)
            self.epoch += 1

    def translate(self, source: Tensor, batch: int = 64) -> Tensor:
        """Edit uint8 [N, 3, H, W] → uint8 [N, 3, H, W]; the same pictures whatever the batch."""
        with torch.no_grad():
            parts = [
                to_uint8(self._translate(self._layout(to_unit(chunk.to(self.device)))))
                for chunk in source.split(batch)
            ]
        return torch.cat(parts).contiguous()

    def state(self) -> bytes:
        """Everything that going on needs; see `load_state`."""
        return training_state.pack(self._modules(), self._optimisers(), self.epoch)

    def load_state(self, data: bytes) -> None:
        """Go on from where `state` was called, bit for bit, with the same recipe, data and seed.

        ValueError for a state of other networks or epochs; what was trained before is then lost.
        """
        modules = self._modules()
        try:
            self.epoch = training_state.unpack(data, modules, self._optimisers())
        except (RuntimeError, ValueError) as error:  # shapes, keys
            raise ValueError(
                f"{self.method}: the saved state is of another configuration; train anew"
            ) from error
        progress = modules["progress"]
        assert isinstance(progress, dict)
        self.seconds = float(progress["seconds"])
        self.losses = progress["losses"][: self.epoch].tolist()

    def _modules(self) -> dict[str, nn.Module | dict[str, Tensor]]:
        losses = torch.zeros(self.recipe.epochs, dtype=torch.float64)
        losses[: self.epoch] = torch.tensor(self.losses, dtype=torch.float64)
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "progress": {"seconds": seconds, "losses": losses},
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimiser, "discriminator": self.critic_optimiser}

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.device)
        pair = to_unit(torch.cat([self.source[index], self.edited[index]], dim=1))
        if self.recipe.jitter or self.recipe.flips:
            pair = self._augmented(pair)
        source, edited = pair.split(3, dim=1)
        return self._layout(source), self._layout(edited)

    def _augmented(self, pair: Tensor) -> Tensor:
        """pix2pix's random jitter and mirroring of [B, 6, H, W]; a pair stays aligned."""
        height, width = pair.shape[-2:]
        count, jitter = len(pair), self.recipe.jitter
        if jitter:
            larger = F.interpolate(
                pair, (height + jitter, width + jitter), mode="bicubic", antialias=True
            ).clamp(-1, 1)
            corners = torch.randint(0, jitter + 1, (count, 2)).tolist()
            pair = torch.stack(
                [
                    image[:, y : y + height, x : x + width]
                    for image, (y, x) in zip(larger, corners, strict=True)
                ]
            )
        if self.recipe.flips:
            mirrored = (torch.rand(count) < 0.5).view(-1, 1, 1, 1).to(self.device)
            pair = torch.where(mirrored, pair.flip(-1), pair)
        return pair

    @staticmethod
    def _layout(images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)

    def _record(self, measured: Tensor, first: int) -> None:
        """measured: [steps, 2], L1 and the whole loss of the steps from `first` on."""
        values = measured.double().cpu()
        for offset, (l1, loss) in enumerate(values.tolist()):
            if not math.isfinite(l1 + loss):
                raise FloatingPointError(
                    f"{self.method}: loss is {loss} in epoch {self.epoch + 1},"
                    f" step {first + offset + 1}"
                )
        self.losses.append(float(values[:, 0].mean()))

    def _on_meta(self) -> ScratchTraining:
        """A copy without data, whose operations are counted but not done."""
        probe = copy(self)
        probe.device = META
        for name in self.networks:
            setattr(probe, name, deepcopy(getattr(self, name)).to(META))
        probe._start_optimisers()
        return probe

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def _random(self, step: int) -> Iterator[None]:
        """The global random state of step `step` (from 1; 0 is the networks' start)."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed * 1_000_003 + step)
            yield
