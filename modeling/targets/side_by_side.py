"""Several concepts in one batch over one frozen base: W is shared, each concept adds its own B·A.

The base's convolution runs once, ungrouped, over the pictures of all concepts, and takes no
gradient of its weights, which a merged W + B·A would need in full. A is one convolution to several
concepts' ranks, of which each keeps its own; B, 1×1, is a batched matrix product.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from modeling.targets.conv_norm import ChannelAffine
from modeling.targets.network import TargetNetwork

DOWN, UP = "lora_A", "lora_B"


class _Adapted(nn.Module):
    """Holds a place for tensors of all concepts, which are arguments of a call."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0), persistent=False)


class SharedConv(_Adapted):
    """x [G·B, C, H, W], A [G, r, C, k, k], B [G, C', r, 1, 1] → [G·B, C', H', W']."""

    lora_A: Tensor
    lora_B: Tensor

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__(DOWN, UP)
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        count, rank = self.lora_A.shape[:2]
        if 2 * rank > self.base.out_channels:
            return self._merged(x)  # its rank is not low: A alone would cost as much
        y = self.base(x)
        pixels = y.movedim(1, -1)
        # more concepts in one convolution would cost as much as the base's own
        some = max(1, pixels.shape[-1] // (2 * rank))
        low = [
            self._down(*part)
            for part in zip(
                x.unflatten(0, (count, -1)).split(some), self.lora_A.split(some), strict=True
            )
        ]
        up = self.lora_B.flatten(2).transpose(1, 2)
        out = torch.baddbmm(pixels.reshape(count, -1, pixels.shape[-1]), torch.cat(low), up)
        return out.view(pixels.shape).movedim(-1, 1)

    def _merged(self, x: Tensor) -> Tensor:
        base, each = self.base, x.unflatten(0, (len(self.lora_A), -1))
        product = self.lora_B.flatten(2) @ self.lora_A.flatten(2)
        weights = base.weight + product.unflatten(-1, base.weight.shape[1:])
        return torch.cat(
            [
                F.conv2d(some, weight, base.bias, base.stride, base.padding, base.dilation)
                for some, weight in zip(each, weights.unbind(), strict=True)
            ]
        )

    def _down(self, x: Tensor, down: Tensor) -> Tensor:
        """x [g, B, C, H, W], A [g, r, C, k, k] → each concept's own ranks [g, B·H'·W', r]."""
        base, count = self.base, len(down)
        weight = down.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        low = F.conv2d(x.flatten(0, 1), weight, None, base.stride, base.padding, base.dilation)
        low = low.movedim(1, -1).unflatten(0, (count, -1)).unflatten(-1, (count, -1))
        return low.diagonal(dim1=0, dim2=-2).movedim(-1, 0).flatten(1, -2)


class SharedLinear(_Adapted):
    """x [G·n, …, C], A [G, r, C], B [G, C', r] → [G·n, …, C']."""

    lora_A: Tensor
    lora_B: Tensor

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(DOWN, UP)
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        y, count = self.base(x), self.lora_A.shape[0]
        low = x.reshape(count, -1, x.shape[-1]) @ self.lora_A.transpose(1, 2)
        own = torch.baddbmm(y.reshape(count, -1, y.shape[-1]), low, self.lora_B.transpose(1, 2))
        return own.view(y.shape)


class OwnAffine(_Adapted):
    """x [G·B, C, H, W], weight and bias [G, C]."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        each = x.shape[0] // self.weight.shape[0]
        weight, bias = (
            v.repeat_interleave(each, 0)[:, :, None, None] for v in (self.weight, self.bias)
        )
        return torch.addcmul(bias, x, weight)


class OwnLayerNorm(_Adapted):
    """x [G·B, M, C], weight and bias [G, C]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, base: nn.LayerNorm) -> None:
        super().__init__("weight", "bias")
        self.shape, self.eps = base.normalized_shape, base.eps

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, self.shape, None, None, self.eps)
        y = y.unflatten(0, (self.weight.shape[0], -1))
        return torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None]).flatten(0, 1)


class SameDropout(nn.Module):
    """One draw for all concepts, so that their adapters are comparable; x [G·B, …]."""

    def __init__(self, base: nn.Dropout) -> None:
        super().__init__()
        self.p, self.count = base.p, 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = F.dropout(torch.ones_like(x[: x.shape[0] // self.count]), self.p)
        return (x.unflatten(0, (self.count, -1)) * kept).flatten(0, 1)


class SideBySide:
    """A base whose layers take the adapters of G concepts; it shares the base's weights."""

    def __init__(self, network: TargetNetwork) -> None:
        self.base = network
        shared = {id(p): p for p in network.parameters()}
        self.network = copy.deepcopy(network, shared)
        self.dropouts: list[SameDropout] = []
        self._replace(self.network)

    def _replace(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            new: nn.Module
            if isinstance(child, nn.Conv2d):
                new = SharedConv(child)
            elif isinstance(child, nn.Linear):
                new = SharedLinear(child)
            elif isinstance(child, ChannelAffine):
                new = OwnAffine()
            elif isinstance(child, nn.LayerNorm):
                new = OwnLayerNorm(child)
            elif isinstance(child, nn.Dropout):
                new = SameDropout(child)
                self.dropouts.append(new)
            else:
                self._replace(child)
                continue
            setattr(module, name, new)

    def __call__(
        self, tensors: Mapping[str, Tensor], x: Tensor, tokens: Tensor, mask: Tensor
    ) -> Tensor:
        """x [G, B, 3, H, W], tokens [G, L, D], mask [G, L] → [G, B, 3, H, W].

        tensors: of an adapter by their names in the network (`stem.conv.lora_A`,
        `stem.norm.weight`), each with a leading concept axis.
        """
        self.network.train(self.base.training)
        for dropout in self.dropouts:
            dropout.count = x.shape[0]
        flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        made: Tensor = functional_call(self.network, dict(tensors), (flat, tokens, mask))
        return made.unflatten(0, x.shape[:2])
