"""A basis in which to fine-tune: per block, the directions along which the collection's gradients
vary.

Adam scales each coordinate by itself, so it matters which coordinates it gets (SOAP, Vyas et al.
2024, rotates them by the gradients' own covariance as training goes). Here the rotation is fixed,
learned once from other concepts: the eigenvectors of the second moment of the image loss's gradient
over the training concepts. Not in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from torch import Tensor

from modeling.targets.lora import Adapter
from modeling.weights.codec import BlockLayout, canonical, check_blocks
from modeling.weights.grouping import CodecError
from modeling.weights.normalisation import Normalisation


@dataclass(frozen=True)
class GradientBasis:
    """An orthogonal matrix per block; see the module's docstring."""

    vectors: Tensor
    """Float32 [N, b, b]: a column each, the direction along which gradients are largest first."""
    count: int
    """Gradients it was fitted on."""
    layout_digest: str

    def rotate(self, blocks: Tensor) -> Tensor:
        """Normalised blocks [..., N, b] → coordinates [..., N, b]."""
        return torch.einsum("...nb,nbc->...nc", blocks, self.vectors)

    def restore(self, coordinates: Tensor) -> Tensor:
        """The inverse of `rotate`."""
        return torch.einsum("...nc,nbc->...nb", coordinates, self.vectors)

    def to(self, device: torch.device | str) -> GradientBasis:
        """The same on another device."""
        return replace(self, vectors=self.vectors.to(device))

    def to_bytes(self) -> bytes:
        """A safetensors file; the same basis gives the same bytes."""
        about = {"count": self.count, "layout": self.layout_digest}
        return safetensors.torch.save({"vectors": self.vectors.cpu()}, {"basis": canonical(about)})

    @classmethod
    def from_bytes(cls, data: bytes, layout: BlockLayout) -> GradientBasis:
        """Inverse of `to_bytes`; CodecError if damaged or of another layout."""
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["basis"])
            vectors = safetensors.torch.load(data)["vectors"]
            count, digest = about["count"], about["layout"]
        except Exception as error:
            raise CodecError(f"not a readable basis: {error}") from error
        if digest != layout.digest():
            raise CodecError(
                f"the basis was fitted on layout {digest[:12]}…, not on {layout.digest()[:12]}…"
            )
        check_blocks(vectors[..., 0], layout.n_blocks, layout.block_size)
        return cls(vectors, count, digest)


@dataclass
class GradientSums:
    """A fit under way: the sum of outer products of gradients, per block."""

    count: int
    outer: Tensor
    """Float64 [N, b, b]."""
    layout_digest: str

    @classmethod
    def empty(cls, layout: BlockLayout) -> GradientSums:
        """Nothing seen yet."""
        n, b = layout.n_blocks, layout.block_size
        return cls(0, torch.zeros(n, b, b, dtype=torch.float64), layout.digest())

    def add(self, gradients: Tensor) -> None:
        """Take in gradients [M, N, b] by normalised blocks; CodecError if one is not finite."""
        check_blocks(gradients, *self.outer.shape[:2])
        if not torch.isfinite(gradients).all():
            raise CodecError("a gradient is not finite")
        g = gradients.detach().to("cpu", torch.float64).transpose(0, 1)
        self.outer += g.transpose(1, 2) @ g
        self.count += gradients.shape[0]

    def finish(self) -> GradientBasis:
        """The eigenvectors of the mean; CodecError without any gradient."""
        if not self.count:
            raise CodecError("no gradients to fit a basis on")
        vectors = torch.linalg.eigh(self.outer / self.count).eigenvectors.flip(-1)
        return GradientBasis(vectors.float().contiguous(), self.count, self.layout_digest)


@dataclass(frozen=True)
class BasisCoordinates:
    """Adapters as coordinates in a basis (modeling/targets/adapter_training.py's Coordinates)."""

    layout: BlockLayout
    normalisation: Normalisation
    basis: GradientBasis

    def of(self, adapters: Mapping[str, Tensor]) -> Adapter:
        """Tensors [G, …] → their coordinates [G, N, b], under one name."""
        blocks = self.normalisation.apply(self.layout.to_blocks(adapters))
        return {"coordinates": self.basis.rotate(blocks)}

    def adapters(self, values: Mapping[str, Tensor]) -> Adapter:
        """The inverse of `of`."""
        blocks = self.basis.restore(values["coordinates"])
        return self.layout.from_blocks(self.normalisation.invert(blocks))
