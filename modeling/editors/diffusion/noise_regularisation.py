"""Keeps inverted noise like white noise (pix2pix-zero, Parmar et al., SIGGRAPH 2023, Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.editors.diffusion.ddim_inversion import DDIM

COARSEST = 8
"""The pyramid of resolutions stops at a height of this or less."""


class NoiseRegularisation:
    """Moves the UNet's output, before an inversion step, to where its noise is whiter.

    `rounds` times: `rolls` gradient steps on the auto-correlation, then one on the divergence from
    N(0, 1); weights and numbers are the published code's. The rolls of a picture are drawn from its
    own generator.
    """

    def __init__(
        self,
        ddim: DDIM,
        generators: Sequence[torch.Generator],
        correlation: float = 20.0,
        divergence: float = 20.0,
        rounds: int = 5,
        rolls: int = 5,
    ) -> None:
        self._ddim, self._generators = ddim, generators
        self._correlation, self._divergence = correlation, divergence
        self._rounds, self._rolls = rounds, rolls

    def __call__(self, output: Tensor, latents: Tensor, t: int) -> Tensor:
        """A Correction (ddim_inversion.py)."""
        for _ in range(self._rounds):
            for _ in range(self._rolls):
                with torch.enable_grad():
                    leaf = output.detach().requires_grad_()
                    noise = self._ddim.epsilon(leaf, latents, t)
                    loss = auto_correlation(noise, self._generators).sum()
                output = leaf.detach() - self._correlation / self._rolls * _grad(loss, leaf)
            with torch.enable_grad():
                leaf = output.detach().requires_grad_()
                loss = divergence(self._ddim.epsilon(leaf, latents, t)).sum()
            output = leaf.detach() - self._divergence * _grad(loss, leaf)
        return output


def _grad(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


def auto_correlation(noise: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Squared correlations of [n, c, h, w] with itself rolled by random amounts, summed: [n].

    Over a pyramid of halved resolutions, both directions, and an own roll for each picture, channel
    and level. As in the published code a roll may be 0, which then pulls on the noise's power.
    """
    levels = [noise]
    while levels[-1].shape[2] > COARSEST:
        levels.append(F.avg_pool2d(levels[-1], 2))
    rolls = torch.tensor(
        [
            [
                [int(torch.randint(level.shape[2] // 2, (), generator=own)) for level in levels]
                for _ in range(noise.shape[1])
            ]
            for own in generators
        ],
        device=noise.device,
    )
    total = noise.new_zeros(len(noise))
    for i, level in enumerate(levels):
        for dim in (2, 3):
            product = level * rolled(level, rolls[..., i], dim)
            total = total + product.mean((2, 3)).square().sum(1)
    return total


def rolled(x: Tensor, rolls: Tensor, dim: int) -> Tensor:
    """torch.roll of [n, c, h, w] along dim 2 or 3, by an amount for each picture and channel."""
    places = torch.arange(x.shape[dim], device=x.device)
    index = (places - rolls[..., None]) % x.shape[dim]
    return x.gather(dim, index.unsqueeze(5 - dim).expand_as(x))


def divergence(noise: Tensor) -> Tensor:
    """Of a picture's mean and variance from N(0, 1): [n, c, h, w] → [n]; 0 is none.

    Twice the Kullback-Leibler divergence.
    """
    mean, variance = noise.flatten(1).mean(1), noise.flatten(1).var(1)
    return variance + mean.square() - 1 - torch.log(variance + 1e-7)
