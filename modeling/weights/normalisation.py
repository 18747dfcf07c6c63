"""Blocks of weights brought to unit deviation, tensor by tensor, and back; how that is fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from modeling.weights.codec import BlockLayout, canonical, check_blocks
from modeling.weights.grouping import CodecError

Centre = Literal["element", "tensor"]


@dataclass(frozen=True)
class Normalisation:
    """(blocks - centre) / scale, per tensor; fit it on the training concepts only.

    centre "element": the elementwise mean of the training adapters, and per tensor the deviation of
    what is left. centre "tensor": one mean and one deviation per tensor. Nothing is ever clamped:
    z-scored weights have no natural range. Padding is 0 on both sides, whatever the input holds
    there.
    """

    centre: Tensor
    """Float32 [N, b], 0 in padding."""
    scale: Tensor
    """Float32 [N, b], the same within a tensor, at least the floor; 1 in padding."""
    mask: Tensor
    """Bool [N, b], the layout's."""
    kind: Centre
    count: int
    """Adapters it was fitted on."""
    layout_digest: str

    @classmethod
    def fit(
        cls, blocks: Tensor, layout: BlockLayout, centre: Centre = "element", floor: float = 1e-6
    ) -> Normalisation:
        """Fit on blocks [M, N, b] of the training adapters; see `NormalisationSums` to stream."""
        sums = NormalisationSums.empty(layout)
        sums.add(blocks)
        return sums.finish(layout, centre, floor)

    def apply(self, blocks: Tensor) -> Tensor:
        """Weights [..., N, b] → normalised [..., N, b]; on the device of `to`."""
        check_blocks(blocks, *self.centre.shape)
        return torch.where(self.mask, (blocks - self.centre) / self.scale, 0.0)

    def invert(self, blocks: Tensor) -> Tensor:
        """Normalised [..., N, b] → weights [..., N, b]."""
        check_blocks(blocks, *self.centre.shape)
        return torch.where(self.mask, blocks * self.scale + self.centre, 0.0)

    def to(self, device: torch.device | str) -> Normalisation:
        """The same on another device."""
        return replace(
            self,
            centre=self.centre.to(device),
            scale=self.scale.to(device),
            mask=self.mask.to(device),
        )

    def to_bytes(self) -> bytes:
        """A safetensors file; the same normalisation gives the same bytes."""
        about = {"centre": self.kind, "count": self.count, "layout": self.layout_digest}
        tensors = {"centre": self.centre.cpu().contiguous(), "scale": self.scale.cpu().contiguous()}
        # one metadata entry: safetensors does not keep the order of several
        return safetensors.torch.save(tensors, {"normalisation": canonical(about)})

    @classmethod
    def from_bytes(cls, data: bytes, layout: BlockLayout) -> Normalisation:
        """Inverse of `to_bytes`; CodecError if damaged or fitted on another layout."""
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["normalisation"])
            centre, scale = tensors["centre"], tensors["scale"]
            kind, count, digest = about["centre"], about["count"], about["layout"]
        except Exception as error:
            raise CodecError(f"not a readable normalisation file: {error}") from error
        if digest != layout.digest():
            raise CodecError(
                f"normalisation was fitted on layout {digest[:12]}…,"
                f" not on {layout.digest()[:12]}…: fit it again for this layout"
            )
        check_blocks(centre, layout.n_blocks, layout.block_size)
        check_blocks(scale, layout.n_blocks, layout.block_size)
        return cls(centre, scale, layout.mask, kind, count, digest)


@dataclass
class NormalisationSums:
    """Mean and sum of squared deviations per slot, in float64: mergeable parts of a fit.

    Parts are joined by the pairwise update of Chan, Golub and LeVeque (1979), which does not
    cancel as sums of squares would.
    """

    count: int
    mean: Tensor
    """Float64 [N, b]."""
    m2: Tensor
    """Float64 [N, b]."""
    layout_digest: str

    @classmethod
    def empty(cls, layout: BlockLayout) -> NormalisationSums:
        """Nothing seen yet."""
        shape = (layout.n_blocks, layout.block_size)
        zeros = torch.zeros(shape, dtype=torch.float64)
        return cls(0, zeros, zeros.clone(), layout.digest())

    def add(self, blocks: Tensor) -> None:
        """Take in blocks [M, N, b] or [N, b]; CodecError on a wrong shape or a non-finite value."""
        check_blocks(blocks, *self.mean.shape)
        values = blocks.detach().to("cpu", torch.float64).reshape(-1, *self.mean.shape)
        if values.shape[0] == 0:
            return
        bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero()
        if len(bad):
            raise CodecError(
                f"adapter {int(bad[0])} of {len(values)} holds a value that is not finite"
            )
        mean = values.mean(0)
        m2 = (values - mean).square().sum(0)
        self.merge(NormalisationSums(values.shape[0], mean, m2, self.layout_digest))

    def merge(self, other: NormalisationSums) -> None:
        """Take in another part of the same layout."""
        if other.layout_digest != self.layout_digest:
            raise CodecError("cannot merge the sums of two different block layouts")
        total = self.count + other.count
        if total == 0:
            return
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / total)
        self.count = total

    def finish(
        self, layout: BlockLayout, centre: Centre = "element", floor: float = 1e-6
    ) -> Normalisation:
        """Pool the slots of each tensor; deviations below `floor` (in weight units) become it."""
        if layout.digest() != self.layout_digest:
            raise CodecError("these sums were taken over another block layout")
        if centre not in ("element", "tensor"):
            raise CodecError(f"centre {centre!r} is neither 'element' nor 'tensor'")
        if not (isfinite(floor) and floor > 0):
            raise CodecError(f"floor {floor!r} is not a positive number")
        if self.count == 0:
            raise CodecError("no adapters to fit a normalisation on")
        mask, ids = layout.mask, layout.tensor_ids[layout.mask]
        slots = torch.bincount(ids, minlength=len(layout.tensors)).double()

        def pooled(per_slot: Tensor) -> Tensor:
            return torch.zeros_like(slots).index_add(0, ids, per_slot) / slots

        means, m2 = self.mean[mask], self.m2[mask]
        if centre == "tensor":
            shared = pooled(means)[ids]
            m2 = m2 + self.count * (means - shared).square()
            means = shared
        deviation = (pooled(m2) / self.count).sqrt().clamp_min(floor)
        centres = torch.zeros(mask.shape, dtype=torch.float32)
        scales = torch.ones_like(centres)
        centres[mask], scales[mask] = means.float(), deviation[ids].float()
        return Normalisation(centres, scales, mask, centre, self.count, self.layout_digest)
