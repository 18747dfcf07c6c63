"""The layers of StyleGAN2 (Karras et al. 2020), in plain PyTorch operations.

Weights are stored at unit variance and scaled when used (equalised learning rate); activations are
leaky ReLU times √2, which keeps their variance. Modulated convolutions scale what goes in and what
comes out instead of the weights, which is the same and needs no convolution per image.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTER = (1.0, 3.0, 3.0, 1.0)
"""Low-pass filter of every change of resolution, before it is normalised (App. B there)."""


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def _filter(x: Tensor, gain: float) -> Tensor:
    """[C, 1, 4, 4]: FILTER in both directions, of sum `gain`, for each channel of x."""
    line = torch.tensor(FILTER, dtype=x.dtype, device=x.device)
    plane = torch.outer(line, line)
    return (plane * (gain / sum(FILTER) ** 2)).expand(x.shape[1], 1, -1, -1)


def blur(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Low-pass [B, C, H, W] after `padding` zeros on each side → sides 2 · padding - 3 longer."""
    return F.conv2d(x, _filter(x, gain), padding=padding, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, C, 2H, 2W], low-pass filtered."""
    return F.conv_transpose2d(x, _filter(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def downsample(x: Tensor) -> Tensor:
    """[B, C, H, W], even sides → [B, C, H/2, W/2], low-pass filtered."""
    return F.conv2d(x, _filter(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def conv_up(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution, weight [O, I, 3, 3], to twice the sides; low-pass filtered."""
    return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0)


def conv_down(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolution, weight [O, I, 3, 3], to half the (even) sides; low-pass filtered."""
    return F.conv2d(blur(x, padding=2), weight, stride=2)


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, up: bool = False
) -> Tensor:
    """Convolve each image with its own weights: x [B, I, H, W], weight [O, I, k, k], style [B, I].

    The weights of image b are style[b] · weight, then, with `demodulate`, scaled to a norm of 1 per
    output channel (Eqs. 1 and 3 there). `up` doubles the sides and needs k = 3.
    """
    x = x * style[:, :, None, None]
    y = conv_up(x, weight) if up else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if demodulate:
        squares = style.square() @ weight.square().sum((2, 3)).T
        y = y * (squares + 1e-8).rsqrt()[:, :, None, None]
    return y


class EqualLinear(nn.Module):
    """[..., c_in] → [..., c_out]; `speed` multiplies the learning rate of weights and biases."""

    def __init__(
        self, c_in: int, c_out: int, bias: float = 0.0, active: bool = False, speed: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / speed)
        self.bias = nn.Parameter(torch.full((c_out,), bias / speed))
        self.active, self.speed, self.scale = active, speed, speed / math.sqrt(c_in)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.speed)
        return activate(x) if self.active else x


class EqualConv(nn.Module):
    """k×k convolution, bias and activation; `down` (k = 3) halves the sides first."""

    def __init__(self, c_in: int, c_out: int, kernel: int, down: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.scale, self.down = 1 / math.sqrt(c_in * kernel**2), down

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.down:
            y = conv_down(x, weight)
        else:
            y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return activate(y + self.bias[:, None, None])


class Mapping(nn.Module):
    """z [B, z_dim] → w [B, w_dim]: normalised, then `layers` layers at 1/100 of the rate."""

    def __init__(self, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        sizes = [z_dim] + [w_dim] * layers
        self.layers = nn.Sequential(
            *(EqualLinear(a, b, active=True, speed=0.01) for a, b in itertools.pairwise(sizes))
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class StyleConv(nn.Module):
    """Modulated 3×3 convolution, noise, bias, activation, to images of `side` pixels.

    Noise is new in every forward pass while training, and the same for all images otherwise.
    """

    noise: Tensor

    def __init__(self, c_in: int, c_out: int, style_dim: int, side: int, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.style = EqualLinear(style_dim, c_in, bias=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, side, side))
        self.scale, self.up = 1 / math.sqrt(c_in * 9), up

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y = modulated_conv(x, self.weight * self.scale, self.style(style), up=self.up)
        noise = torch.randn_like(y[:, :1]) if self.training else self.noise
        return activate(y + noise * self.noise_strength + self.bias[:, None, None])


class ToRgb(nn.Module):
    """Modulated 1×1 convolution to 3 channels, without demodulation."""

    def __init__(self, c_in: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.style = EqualLinear(style_dim, c_in, bias=1.0)
        self.scale = 1 / math.sqrt(c_in)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return modulated_conv(x, weight, self.style(style), False) + self.bias[:, None, None]


class ResidualDown(nn.Module):
    """The discriminator's block: two convolutions beside a 1×1 one, to half the sides."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first = EqualConv(c_in, c_in, 3)
        self.second = EqualConv(c_in, c_out, 3, down=True)
        self.skip = nn.Parameter(torch.randn(c_out, c_in, 1, 1))
        self.scale = 1 / math.sqrt(c_in)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.conv2d(downsample(x), self.skip * self.scale)
        return (self.second(self.first(x)) + skip) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append one channel to [B, C, H, W]: the mean deviation within groups of images.

    Groups are of `group` images, or of the next smaller number that divides B.
    """
    batch, _, height, width = x.shape
    size = max(n for n in range(1, min(group, batch) + 1) if batch % n == 0)
    grouped = x.reshape(size, batch // size, -1)
    deviation = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean(1)
    channel = deviation.repeat(size)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, channel], dim=1)
