"""StyleGAN2's layers against slow, literal references."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeling.baselines import stylegan
from modeling.baselines.stylegan import (
    EqualConv,
    EqualLinear,
    Mapping,
    ResidualDown,
    StyleConv,
    ToRgb,
)
from tests.rounding import in_float64


def upfirdn(x: Tensor, kernel: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """Insert zeros, pad, convolve with a 2-D kernel, take every `down`-th: pixel by pixel."""
    batch, channels, height, width = x.shape
    spread = torch.zeros(batch, channels, height * up, width * up, dtype=x.dtype)
    spread[:, :, ::up, ::up] = x
    padded = F.pad(spread, (before, after, before, after))
    k = kernel.shape[0]
    rows, columns = padded.shape[-2] - k + 1, padded.shape[-1] - k + 1
    out = torch.zeros(batch, channels, rows, columns, dtype=x.dtype)
    for i in range(k):
        for j in range(k):
            # a convolution, not a correlation
            weight = kernel[k - 1 - i, k - 1 - j]
            out += weight * padded[:, :, i : i + rows, j : j + columns]
    return out[:, :, ::down, ::down]


def low_pass(gain: float = 1.0) -> Tensor:
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    return torch.outer(line, line) * gain / 64


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_resampling_is_upfirdn() -> None:
    x = images(2, 3, 6, 8)
    torch.testing.assert_close(stylegan.upsample(x), upfirdn(x, low_pass(4), 2, 1, 2, 1))
    torch.testing.assert_close(stylegan.downsample(x), upfirdn(x, low_pass(), 1, 2, 1, 1))
    torch.testing.assert_close(stylegan.blur(x, 2), upfirdn(x, low_pass(), 1, 1, 2, 2))
    assert stylegan.upsample(x).shape == (2, 3, 12, 16)
    assert stylegan.downsample(x).shape == (2, 3, 3, 4)


def test_convolutions_that_resample_are_a_convolution_and_upfirdn() -> None:
    x, weight = images(2, 3, 6, 6), images(5, 3, 3, 3, seed=1)
    spread = torch.zeros(2, 3, 12, 12, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x
    # transposed convolution: full convolution with the kernel turned round, of 2H + 1 pixels
    up = F.conv2d(F.pad(spread, (2, 1, 2, 1)), weight.flip(2, 3))
    torch.testing.assert_close(stylegan.conv_up(x, weight), upfirdn(up, low_pass(4), 1, 1, 1, 1))
    down = F.conv2d(upfirdn(x, low_pass(), 1, 1, 2, 2), weight, stride=2)
    torch.testing.assert_close(stylegan.conv_down(x, weight), down)
    assert stylegan.conv_up(x, weight).shape == (2, 5, 12, 12)
    assert stylegan.conv_down(x, weight).shape == (2, 5, 3, 3)


@pytest.mark.parametrize("resample", [stylegan.upsample, stylegan.downsample])
@in_float64()
def test_resampling_keeps_a_flat_image_flat(resample: Callable[[Tensor], Tensor]) -> None:
    inner = resample(torch.full((1, 2, 16, 16), 0.7))[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.7))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    side=st.integers(3, 7),
    demodulate=st.booleans(),
    up=st.booleans(),
)
def test_modulated_convolution_is_one_convolution_per_image(
    batch: int, c_in: int, c_out: int, kernel: int, side: int, demodulate: bool, up: bool
) -> None:
    up = up and kernel == 3
    x, style = images(batch, c_in, side, side), images(batch, c_in, seed=1)
    weight = images(c_out, c_in, kernel, kernel, seed=2)
    expected = []
    for image, s in zip(x, style, strict=True):
        own = weight * s[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            expected.append(stylegan.conv_up(image[None], own))
        else:
            expected.append(F.conv2d(image[None], own, padding=kernel // 2))
    made = stylegan.modulated_conv(x, weight, style, demodulate, up)
    torch.testing.assert_close(made, torch.cat(expected))


def test_demodulated_output_has_unit_variance_whatever_the_style() -> None:
    x = images(4, 16, 32, 32)
    weight = images(8, 16, 3, 3, seed=1)
    style = images(4, 16, seed=2).exp() * torch.tensor([0.01, 1, 10, 100])[:, None]
    inner = stylegan.modulated_conv(x, weight, style)[:, :, 1:-1, 1:-1]
    assert torch.allclose(inner.var((2, 3)), torch.ones(4, 8, dtype=torch.float64), atol=0.25)
    assert inner.var() == pytest.approx(1, abs=0.05)


@torch.no_grad()
def test_equalised_layers_keep_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 64)
    assert EqualLinear(64, 128)(x).var() == pytest.approx(1, abs=0.1)
    assert EqualLinear(64, 128, active=True)(x).square().mean() == pytest.approx(1, abs=0.1)
    conv = EqualConv(16, 32, 3)(torch.randn(8, 16, 16, 16))[:, :, 1:-1, 1:-1]
    assert conv.square().mean() == pytest.approx(1, abs=0.1)
    block = ResidualDown(16, 16)(torch.randn(8, 16, 32, 32))
    assert block.shape == (8, 16, 16, 16)


@pytest.mark.parametrize("speed", [1.0, 0.01])
@in_float64()
def test_speed_multiplies_the_learning_rate(speed: float) -> None:
    """Adam moves every weight by its rate, so a layer's output moves by rate · speed."""
    torch.manual_seed(0)
    layer = EqualLinear(4, 3, bias=0.5, speed=speed)
    x = torch.ones(1, 4)
    before = layer(x).detach()
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
    layer(x).sum().backward()
    optimiser.step()
    # 4 weights scaled by 1/√4, and the bias
    # Adam's eps, 1e-8, takes its share of a gradient of 0.01 · 0.5
    moved = torch.full((1, 3), 3e-3 * speed)
    torch.testing.assert_close(before - layer(x), moved, rtol=1e-5, atol=0)


@in_float64()
def test_the_mapping_does_not_see_the_length_of_z() -> None:
    torch.manual_seed(0)
    mapping, z = Mapping(16, 8, 3), torch.randn(2, 16)
    assert mapping(z).shape == (2, 8)
    # but for the 1e-8 that keeps a z of zeros finite
    torch.testing.assert_close(mapping(z), mapping(5 * z), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(mapping(z)[0], mapping(z)[1], atol=1e-2)


@in_float64()
def test_noise_is_new_in_training_and_fixed_otherwise() -> None:
    torch.manual_seed(0)
    layer = StyleConv(4, 4, 8, 8, up=True)
    x, style = torch.randn(2, 4, 4, 4), torch.randn(2, 8)
    assert torch.equal(layer(x, style), layer(x, style))  # its strength starts at 0
    torch.nn.init.ones_(layer.noise_strength)
    assert not torch.allclose(layer(x, style), layer(x, style))
    layer.eval()
    assert torch.equal(layer(x, style), layer(x, style))
    torch.testing.assert_close(layer(x, style)[:1], layer(x[:1], style[:1]))


@in_float64()
def test_colours_follow_the_scale_of_the_style() -> None:
    """No demodulation: what the style scales stays scaled."""
    torch.manual_seed(0)
    layer = ToRgb(4, 8)
    x, style = torch.randn(2, 4, 8, 8), torch.randn(2, 8)
    torch.nn.init.zeros_(layer.style.bias)
    torch.testing.assert_close(layer(x, 3 * style), 3 * layer(x, style))


@pytest.mark.parametrize(("batch", "group"), [(4, 4), (8, 4), (6, 3), (5, 1), (2, 2)])
def test_minibatch_deviation(batch: int, group: int) -> None:
    x = images(batch, 3, 4, 4)
    out = stylegan.minibatch_deviation(x)
    assert out.shape == (batch, 4, 4, 4) and torch.equal(out[:, :3], x)
    for i in range(batch):
        # a group is every (batch / group)-th image
        members = x[i % (batch // group) :: batch // group]
        assert len(members) == group
        expected = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[i, 3], expected.expand(4, 4))


def test_minibatch_deviation_tells_equal_images_apart_from_different_ones() -> None:
    same = images(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert stylegan.minibatch_deviation(same)[0, 3, 0, 0] == pytest.approx(1e-4)
    assert stylegan.minibatch_deviation(images(4, 3, 4, 4))[0, 3, 0, 0] > 0.5


def test_the_activation_keeps_the_second_moment() -> None:
    x = images(100_000)
    assert stylegan.activate(x).square().mean() == pytest.approx((1 + 0.2**2) * 2 / 2, rel=0.02)
    assert stylegan.activate(torch.tensor([1.0, -1.0])).tolist() == pytest.approx(
        [math.sqrt(2), -0.2 * math.sqrt(2)]
    )
