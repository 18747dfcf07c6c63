"""Gaussian diffusion of weight blocks: schedule, prediction types, samplers (Sec. 4.3 and 4.4).

w^t = α_t w + σ_t ε (Eq. 1), α_t = sqrt(ᾱ_t), σ_t = sqrt(1 - ᾱ_t). A network may predict ε (the
paper), w itself ("x0") or v = α_t ε - σ_t w; each determines the others once w^t and t are known.

Eq. (3) of the paper is misprinted: it reads w = w^t / α_t - σ_t ε̂. Solving Eq. (1)'s definition of
w^t for w gives w = (w^t - σ_t ε̂) / α_t, and that is what `recover` computes.

Nothing here clips: z-scored weights have no range to clip to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

PredictionKind = Literal["epsilon", "v", "x0"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(w^t [B, ...], t [B] int64) → the network's output, shaped like w^t."""


class DiffusionError(ValueError):
    """A schedule, time step or prediction type that does not exist."""


class Prediction(NamedTuple):
    """What one network output says about both the clean weights and the noise."""

    x0: Tensor
    eps: Tensor


def betas(steps: int, schedule: BetaSchedule) -> Tensor:
    """β_t, float32 [steps], as diffusers names and rounds them, whose import takes seconds."""
    if schedule == "linear":
        return torch.linspace(1e-4, 0.02, steps)
    if schedule == "scaled_linear":
        return torch.linspace(1e-4**0.5, 0.02**0.5, steps).square()

    def remaining(t: float) -> float:  # Nichol and Dhariwal 2021, Eq. 17
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    parts = [1 - remaining((i + 1) / steps) / remaining(i / steps) for i in range(steps)]
    return torch.tensor([min(part, 0.999) for part in parts], dtype=torch.float32)


class NoiseSchedule:
    """α_t and σ_t for t = 0 … steps - 1, in float64: those of diffusers' DDPMScheduler.

    "linear" and "scaled_linear" have fixed end betas, so with few `steps` they stop far from pure
    noise (linear, 100 steps: α = 0.6 at the end) and sampling from pure noise is then off the
    training distribution; the paper's setting is 1000.
    """

    def __init__(self, steps: int = 1000, beta_schedule: BetaSchedule = "linear") -> None:
        if beta_schedule not in get_args(BetaSchedule):
            raise DiffusionError(
                f"unknown beta_schedule {beta_schedule!r}: use one of {get_args(BetaSchedule)}"
            )
        if steps < 1:
            raise DiffusionError(f"a noise schedule needs at least one step, not {steps}")
        abar = (1 - betas(steps, beta_schedule)).cumprod(0).double()
        if not bool(((abar > 0) & (abar < 1)).all()):
            raise DiffusionError(
                f"{beta_schedule!r} with {steps} steps leaves no signal at its end: use fewer steps"
            )
        self.steps = steps
        self.beta_schedule = beta_schedule
        self._alpha = {abar.device: abar.sqrt()}
        self._sigma = {abar.device: (1 - abar).sqrt()}

    def alpha(self, t: int | Tensor) -> Tensor:
        """Strength of the signal at t (an int or an integer tensor), float64, shaped like t."""
        return self._look_up(self._alpha, t)

    def sigma(self, t: int | Tensor) -> Tensor:
        """Strength of the noise at t (an int or an integer tensor), float64, shaped like t."""
        return self._look_up(self._sigma, t)

    def add_noise(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """w^t = α_t w + σ_t ε. `x0` and `eps` [B, ...], t an int or [B]."""
        alpha, sigma = self._coefficients(x0, t)
        return alpha * x0 + sigma * eps

    def target(self, kind: PredictionKind, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        """What a network of this prediction type should output for (x0, eps, t)."""
        if kind == "epsilon":
            return eps
        if kind == "x0":
            return x0
        _check_kind(kind)
        alpha, sigma = self._coefficients(x0, t)
        return alpha * eps - sigma * x0

    def recover(
        self, kind: PredictionKind, output: Tensor, xt: Tensor, t: int | Tensor
    ) -> Prediction:
        """Both x0 and ε from a network's output at w^t: the inverse of `target`.

        For "epsilon", x0 = (w^t - σ_t ε̂) / α_t (the paper's Eq. 3, corrected): as ᾱ_t → 0 an error
        in ε̂ is multiplied by σ_t / α_t (157 at the end of "linear", 20,000 at the end of
        "squaredcos_cap_v2"), so near pure noise that recovery is ill-conditioned, while "x0" and
        "v" stay bounded. Conversely "x0" divides by σ_t to get ε, which is small only at t ≈ 0.
        """
        alpha, sigma = self._coefficients(xt, t)
        if kind == "epsilon":
            return Prediction((xt - sigma * output) / alpha, output)
        if kind == "x0":
            return Prediction(output, (xt - alpha * output) / sigma)
        _check_kind(kind)
        return Prediction(alpha * xt - sigma * output, sigma * xt + alpha * output)

    def check_time(self, t: int | Tensor) -> None:
        """Raise DiffusionError unless every t is an integer in [0, steps).

        Values on an accelerator are not asked for, which would wait for it: its own look-up fails.
        """
        if isinstance(t, Tensor):
            if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
                raise DiffusionError(f"time steps are integers, not {t.dtype}")
            if t.numel() == 0 or t.device.type != "cpu":
                return
            low, high = int(t.min()), int(t.max())
        else:
            low = high = t
        if low < 0 or high >= self.steps:
            raise DiffusionError(
                f"time step {low if low < 0 else high} is outside [0, {self.steps - 1}]"
            )

    def _look_up(self, table: dict[torch.device, Tensor], t: int | Tensor) -> Tensor:
        self.check_time(t)
        values = next(iter(table.values()))
        if not isinstance(t, Tensor):
            return values[t]
        if t.device not in table:  # one copy per device, not one per training step
            table[t.device] = values.to(t.device)
        return table[t.device][t]

    def _coefficients(self, x: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(t, Tensor) and t.dim() and t.shape != x.shape[:1]:
            raise DiffusionError(
                f"t has shape {tuple(t.shape)}: one step per sample of {tuple(x.shape)} expected"
            )
        shape = (-1,) + (1,) * (x.dim() - 1) if isinstance(t, Tensor) and t.dim() else ()
        alpha, sigma = (f(t).to(x.device, x.dtype).reshape(shape) for f in (self.alpha, self.sigma))
        return alpha, sigma


def one_step(
    schedule: NoiseSchedule, denoise: Denoiser, noise: Tensor, t: int, kind: PredictionKind
) -> Tensor:
    """Direct recovery of the weights from pure noise by one call (Sec. 4.4, Eq. 3 corrected).

    `noise` [B, ...] is standard Gaussian and stands for w^t; `t` lies near the noisy end. The
    result is close to the conditional mean of the weights, not a sample of them.
    """
    _check_kind(kind)
    schedule.check_time(t)
    times = torch.full(noise.shape[:1], t, device=noise.device)
    return schedule.recover(kind, denoise(noise, times), noise, t).x0


def ddim(
    schedule: NoiseSchedule,
    denoise: Denoiser,
    noise: Tensor,
    timesteps: Sequence[int],
    kind: PredictionKind,
    callback: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Deterministic multi-step sampling (DDIM, η = 0) along strictly falling `timesteps`.

    Starts from `noise` [B, ...] as w at timesteps[0]; the last call's x0 is returned.
    `callback(i, t, x)` sees the state that the i-th step, at t, led to.
    """
    _check_kind(kind)
    steps = [int(t) for t in timesteps]
    if not steps or any(a <= b for a, b in pairwise(steps)):
        raise DiffusionError("ddim needs at least one time step, each smaller than the one before")
    for t in (steps[0], steps[-1]):
        schedule.check_time(t)
    x = noise
    for i, t in enumerate(steps):
        times = torch.full(x.shape[:1], t, device=x.device)
        x0, eps = schedule.recover(kind, denoise(x, times), x, t)
        x = schedule.add_noise(x0, eps, steps[i + 1]) if i + 1 < len(steps) else x0
        if callback is not None:
            callback(i, t, x)
    return x


def ddim_timesteps(start: int, count: int) -> list[int]:
    """`count` evenly spaced time steps from `start` down to 0 (`start` alone if count is 1)."""
    if not 1 <= count <= start + 1:
        raise DiffusionError(f"cannot place {count} distinct time steps between {start} and 0")
    if count == 1:
        return [start]
    return [round(start * (count - 1 - i) / (count - 1)) for i in range(count)]


def _check_kind(kind: str) -> None:
    if kind not in get_args(PredictionKind):
        raise DiffusionError(
            f"unknown prediction type {kind!r}: use one of {get_args(PredictionKind)}"
        )
