"""Diffusion algebra: inverses, diffusers as the reference, samplers against known denoisers."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.weights.diffusion import (
    BetaSchedule,
    DiffusionError,
    NoiseSchedule,
    PredictionKind,
    betas,
    ddim,
    ddim_timesteps,
    one_step,
)
from tests.rounding import rounding

KINDS = get_args(PredictionKind)
SCHEDULES = get_args(BetaSchedule)
THEIR_NAME = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


@cache
def schedule(name: str = "linear", steps: int = 1000) -> NoiseSchedule:
    return NoiseSchedule(steps, name)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_and_noise_keep_unit_variance_and_fall_monotonically(name: str) -> None:
    t = torch.arange(1000)
    alpha, sigma = schedule(name).alpha(t), schedule(name).sigma(t)
    assert alpha.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64))
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert schedule(name).alpha(7) == alpha[7]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(SCHEDULES),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    times=st.lists(st.integers(0, 999), min_size=1, max_size=4),
)
def test_recover_inverts_target(
    name: str, kind: PredictionKind, seed: int, times: list[int]
) -> None:
    s, t = schedule(name), torch.tensor(times)
    x0, eps = gaussian(2, len(times), 3, 5, seed=seed)
    xt = s.add_noise(x0, eps, t)
    back = s.recover(kind, s.target(kind, x0, eps, t), xt, t)
    # float64 error grows with the inverse of the strength divided by (5e-5 at the worst)
    bound = rounding(4, x0, eps, xt) / 5e-5
    torch.testing.assert_close(back.x0, x0, rtol=0, atol=bound)
    torch.testing.assert_close(back.eps, eps, rtol=0, atol=bound)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**31), t=st.integers(0, 999))
def test_target_inverts_recover(kind: PredictionKind, seed: int, t: int) -> None:
    s = schedule()
    output, xt = gaussian(2, 2, 6, seed=seed)
    x0, eps = s.recover(kind, output, xt, t)
    torch.testing.assert_close(s.add_noise(x0, eps, t), xt, rtol=0, atol=1e-10)
    torch.testing.assert_close(s.target(kind, x0, eps, t), output, rtol=0, atol=1e-10)


def test_the_papers_printed_equation_3_is_not_the_inverse() -> None:
    s, t = schedule(), 700
    x0, eps = gaussian(2, 4)
    xt = s.add_noise(x0, eps, t)
    printed = xt / s.alpha(t) - s.sigma(t) * eps
    assert (printed - x0).abs().max() > 0.1
    torch.testing.assert_close(s.recover("epsilon", eps, xt, t).x0, x0)


def test_epsilon_recovery_amplifies_errors_near_pure_noise_and_the_others_do_not() -> None:
    s, t, xt = schedule(), 999, gaussian(1, 8)
    for kind, low, high in (("epsilon", 150, 160), ("x0", 0.99, 1.01), ("v", 0.99, 1.01)):
        a = s.recover(kind, torch.zeros_like(xt), xt, t).x0
        b = s.recover(kind, torch.full_like(xt, 1e-3), xt, t).x0
        assert low < ((a - b).abs() / 1e-3).mean() < high


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_betas_are_those_of_diffusers(name: str, steps: int) -> None:
    theirs = DDPMScheduler(num_train_timesteps=steps, beta_schedule=name)
    torch.testing.assert_close(betas(steps, name), theirs.betas, rtol=1e-6, atol=0)


def with_exact_products(theirs: Any) -> Any:
    """diffusers multiplies its 1000 factors in float32: here the same ones in float64."""
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    return theirs


FACTORS = {"rtol": 1e-4, "atol": 1e-4}
"""What is left: factors that are float32. Each is off by two roundings of 0.02 at most, all 1000 by
4e-6 together, which is what the strengths are off by. One step too many is 5e-3."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_add_noise_and_v_agree_with_diffusers(name: str) -> None:
    theirs = with_exact_products(DDPMScheduler(num_train_timesteps=1000, beta_schedule=name))
    t = torch.tensor([0, 1, 250, 500, 998, 999])
    x0, eps = gaussian(2, 6, 4, 3)
    ours = schedule(name)
    torch.testing.assert_close(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, t), **FACTORS)
    torch.testing.assert_close(
        ours.target("v", x0, eps, t), theirs.get_velocity(x0, eps, t), **FACTORS
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_recover_agrees_with_the_ddpm_step_of_diffusers(name: str, kind: PredictionKind) -> None:
    theirs = DDPMScheduler(
        beta_schedule=name, prediction_type=THEIR_NAME[kind], clip_sample=False, thresholding=False
    )
    with_exact_products(theirs)
    output, xt = gaussian(2, 2, 9)
    for t in (0, 37, 500, 950):
        expected = theirs.step(output, t, xt).pred_original_sample
        got = schedule(name).recover(kind, output, xt, t).x0
        torch.testing.assert_close(got, expected, **FACTORS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_agrees_with_diffusers(name: str, kind: PredictionKind) -> None:
    theirs = DDIMScheduler(
        beta_schedule=name, prediction_type=THEIR_NAME[kind], clip_sample=False, steps_offset=0
    )
    with_exact_products(theirs)
    theirs.set_timesteps(25)
    noise = gaussian(3, 7)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(1.3 * x + t[:, None] / 400)

    expected = noise
    states = []
    for t in theirs.timesteps:
        expected = theirs.step(denoise(expected, t.expand(3)), int(t), expected).prev_sample
        states.append(expected)
    seen: list[tuple[int, int, torch.Tensor]] = []
    got = ddim(
        schedule(name),
        denoise,
        noise,
        theirs.timesteps.tolist(),
        kind,
        callback=lambda i, t, x: seen.append((i, t, x)),
    )
    for (_, _, ours), state in zip(seen, states, strict=True):
        torch.testing.assert_close(ours, state, **FACTORS)
    assert [t for _, t, _ in seen] == theirs.timesteps.tolist()
    assert torch.equal(got, seen[-1][2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [600, 950, 999])
def test_samplers_with_a_perfect_denoiser_recover_the_weights(kind: PredictionKind, t: int) -> None:
    s = schedule()
    weights, noise = gaussian(2, 3, 8)

    def perfect(xt: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        assert times.dtype == torch.int64 and times.shape == (3,)
        alpha, sigma = s.alpha(times)[:, None], s.sigma(times)[:, None]
        return s.target(kind, weights, (xt - alpha * weights) / sigma, times)

    torch.testing.assert_close(one_step(s, perfect, noise, t, kind), weights)
    for count in (1, 2, 10):
        got = ddim(s, perfect, noise, ddim_timesteps(t, count), kind)
        torch.testing.assert_close(got, weights)


def test_one_timestep_of_ddim_is_the_direct_recovery() -> None:
    noise = gaussian(2, 5)
    args = schedule(), lambda x, t: torch.tanh(x), noise
    assert torch.equal(ddim(*args, [900], "v"), one_step(*args, 900, "v"))


@given(start=st.integers(0, 999), data=st.data())
@settings(deadline=None)
def test_ddim_timesteps_fall_strictly_from_start_to_zero(start: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, start + 1))
    steps = ddim_timesteps(start, count)
    assert len(steps) == count and steps[0] == start
    assert all(a > b for a, b in pairwise(steps))
    assert count == 1 or steps[-1] == 0


def test_the_dtype_of_the_weights_is_kept() -> None:
    s, t = schedule(), torch.tensor([3, 4])
    x = torch.randn(2, 5)
    assert s.add_noise(x, x, t).dtype == torch.float32
    assert s.recover("epsilon", x.bfloat16(), x, t).x0.dtype == torch.float32


@pytest.mark.parametrize("t", [-1, 1000, torch.tensor([0, -1]), torch.tensor([5, 1000])])
def test_time_steps_out_of_range_are_refused(t: int | torch.Tensor) -> None:
    x = torch.zeros(2, 4)
    s = schedule()
    for call in (
        lambda: s.alpha(t),
        lambda: s.add_noise(x, x, t),
        lambda: s.recover("epsilon", x, x, t),
        lambda: s.target("v", x, x, t),
    ):
        with pytest.raises(DiffusionError, match="outside"):
            call()


def test_other_bad_input_is_refused() -> None:
    s, x = schedule(), torch.zeros(2, 4)
    with pytest.raises(DiffusionError, match="beta_schedule"):
        NoiseSchedule(10, "cosine")
    with pytest.raises(DiffusionError, match="at least one"):
        NoiseSchedule(0)
    with pytest.raises(DiffusionError, match="no signal"):
        NoiseSchedule(100_000, "linear")
    with pytest.raises(DiffusionError, match="integers"):
        s.alpha(torch.tensor([0.5]))
    with pytest.raises(DiffusionError, match="one step per sample"):
        s.add_noise(x, x, torch.tensor([1, 2, 3]))
    for call in (
        lambda: s.target("eps", x, x, 1),
        lambda: s.recover("eps", x, x, 1),
        lambda: one_step(s, lambda x, t: x, x, 1, "eps"),
    ):
        with pytest.raises(DiffusionError, match="prediction type"):
            call()
    for steps in ([], [1, 2], [5, 5]):
        with pytest.raises(DiffusionError, match="smaller"):
            ddim(s, lambda x, t: x, x, steps, "x0")
    with pytest.raises(DiffusionError, match="outside"):
        ddim(s, lambda x, t: x, x, [1000, 5], "x0")
    with pytest.raises(DiffusionError, match="cannot place"):
        ddim_timesteps(3, 5)
