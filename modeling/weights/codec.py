"""Adapter ↔ equal-sized blocks: the tokeniser of weights (paper Sec. 4.2, rules of Table 3).

An adapter is cut into groups, each group is flattened, padded with zeros to whole blocks of b
weights, and all blocks are stacked to [N, b]. Padding is per group, not once at the end of the
stream: otherwise rules 1 and 3 would be byte-identical. The cut is one index permutation, so both
directions are exact, differentiable and a single gather or scatter.

`Normalisation` then brings the tensors, whose scales differ by layer, to unit deviation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil, isfinite, prod
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from modeling.targets.layers import LayerGroup

Centre = Literal["element", "tensor"]
FORMAT = "denoised-weights/block-layout"
VERSION = 1
RULES = (1, 2, 3)


class CodecError(ValueError):
    """An adapter, layout or normalisation that does not fit; the message names the tensor."""


@dataclass(frozen=True)
class Segment:
    """A run of weights: a whole flattened tensor, or one rank channel of it (A[k] or B[:, k])."""

    key: str
    channel: int | None
    length: int


@dataclass(frozen=True)
class BlockGroup:
    """Segments laid end to end over `n_blocks` blocks from `first_block`, zeros at the end."""

    name: str
    first_block: int
    n_blocks: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class BlockLayout:
    """How the adapters of one base are cut; make it with `build` or `from_json`.

    Rules (Table 3): 1 = per layer A, then B, then the norm's affine; 2 = per layer interleaved by
    rank channel, A[0], B[:, 0], A[1], B[:, 1], …, then the affine (equal to rule 1 at rank 1);
    3 = every tensor a group of its own.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    """(key, shape) in layer order; a tensor's place here is its number in `tensor_ids`."""
    layers: tuple[LayerGroup, ...]
    rule: int
    block_size: int

    @classmethod
    def build(
        cls,
        shapes: Mapping[str, tuple[int, ...]],
        layers: Sequence[LayerGroup],
        rule: int,
        block_size: int,
    ) -> BlockLayout:
        """Layout for adapters of these `shapes` (A [r, …], B [out, r, …], affines of any shape).

        Raises CodecError unless every key of `shapes` is in exactly one place of `layers`, A and B
        agree on the rank, rule is 1, 2 or 3 and block_size ≥ 1.
        """
        if type(rule) is not int or rule not in RULES:
            raise CodecError(f"grouping rule {rule!r} is not one of 1, 2, 3")
        if type(block_size) is not int or block_size < 1:
            raise CodecError(f"block size {block_size!r} is not a whole number of at least 1")
        _check_layers(shapes, layers)
        tensors = tuple((k, tuple(int(d) for d in shapes[k])) for g in layers for k in g.keys)
        return cls(tensors, tuple(layers), rule, block_size)

    def __reduce__(self) -> tuple[Any, ...]:
        # without the cached indices, which may live on a device the reader does not have
        return BlockLayout, (self.tensors, self.layers, self.rule, self.block_size)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, by key, in layer order."""
        return dict(self.tensors)

    @cached_property
    def n_weights(self) -> int:
        """Real weights, padding not counted."""
        return sum(self._sizes)

    @cached_property
    def n_blocks(self) -> int:
        """N."""
        last = self.groups[-1]
        return last.first_block + last.n_blocks

    @cached_property
    def groups(self) -> tuple[BlockGroup, ...]:
        """The groups in block order."""
        groups: list[BlockGroup] = []
        first = 0
        for name, segments in self._segments():
            count = ceil(sum(s.length for s in segments) / self.block_size)
            groups.append(BlockGroup(name, first, count, tuple(segments)))
            first += count
        return tuple(groups)

    @cached_property
    def block_groups(self) -> list[str]:
        """Name of the group that each of the N blocks belongs to."""
        return [g.name for g in self.groups for _ in range(g.n_blocks)]

    @cached_property
    def mask(self) -> Tensor:
        """Bool [N, b]: True where a weight is, False where padding is."""
        return self.tensor_ids >= 0

    @cached_property
    def tensor_ids(self) -> Tensor:
        """Int64 [N, b]: which of `tensors` each slot holds, -1 for padding."""
        ids = torch.full((self.n_blocks * self.block_size,), -1)
        ids[self._slots] = torch.arange(len(self._sizes)).repeat_interleave(
            torch.tensor(self._sizes)
        )
        return ids.view(self.n_blocks, self.block_size)

    def to_blocks(self, adapter: Mapping[str, Tensor]) -> Tensor:
        """Tensors [..., *shape], the same leading dimensions for all → [..., N, b], padding 0.

        Raises CodecError, naming the tensor, on other keys, shapes, or mixed dtypes or devices.
        """
        lead = self._check_adapter(adapter)
        parts = [
            adapter[k].reshape(*lead, n)
            for (k, _), n in zip(self.tensors, self._sizes, strict=True)
        ]
        flat = torch.cat(parts, dim=-1)
        blocks = flat.new_zeros(*lead, self.n_blocks * self.block_size)
        blocks = blocks.index_copy(-1, self._slots_on(flat.device), flat)
        return blocks.view(*lead, self.n_blocks, self.block_size)

    def from_blocks(self, blocks: Tensor) -> dict[str, Tensor]:
        """[..., N, b] → tensors [..., *shape]; exact inverse of `to_blocks`, padding ignored.

        Raises CodecError if the last two dimensions are not [N, b].
        """
        _check_blocks(blocks, self.n_blocks, self.block_size)
        lead = blocks.shape[:-2]
        flat = blocks.reshape(*lead, self.n_blocks * self.block_size)
        flat = flat.index_select(-1, self._slots_on(blocks.device))
        parts = flat.split(self._sizes, dim=-1)
        return {
            k: p.reshape(*lead, *shape) for (k, shape), p in zip(self.tensors, parts, strict=True)
        }

    def check_finite(self, adapter: Mapping[str, Tensor]) -> None:
        """Raise CodecError naming the first tensor that holds a NaN or an infinity.

        Not part of `to_blocks`: on a GPU it would wait for the device at each call.
        """
        self._check_adapter(adapter)
        for key, _ in self.tensors:
            if not torch.isfinite(adapter[key]).all():
                raise CodecError(f"{key}: not finite")

    def to_json(self) -> str:
        """Canonical JSON: equal layouts give equal text."""
        return _canonical(
            {
                "format": FORMAT,
                "version": VERSION,
                "rule": self.rule,
                "block_size": self.block_size,
                "n_blocks": self.n_blocks,
                "tensors": [{"key": k, "shape": list(s)} for k, s in self.tensors],
                "layers": [asdict(layer) for layer in self.layers],
                "groups": [asdict(g) for g in self.groups],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> BlockLayout:
        """Inverse of `to_json`; CodecError if damaged, of another version or inconsistent."""
        try:
            data = json.loads(text)
            form = (data["format"], data["version"])
            if form != (FORMAT, VERSION):
                raise CodecError(
                    f"block layout of format {form}; this code reads {(FORMAT, VERSION)}"
                )
            layers = [
                LayerGroup(g["name"], g["a"], g["b"], tuple(g["norm"])) for g in data["layers"]
            ]
            shapes = {t["key"]: tuple(t["shape"]) for t in data["tensors"]}
            layout = cls.build(shapes, layers, data["rule"], data["block_size"])
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CodecError(f"not a block layout: {type(error).__name__} {error}") from error
        if layout.to_json() != _canonical(data):
            raise CodecError("block layout contradicts itself: its groups do not follow its rule")
        return layout

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def _sizes(self) -> list[int]:
        return [prod(shape) for _, shape in self.tensors]

    def _segments(self) -> list[tuple[str, list[Segment]]]:
        def whole(key: str) -> Segment:
            return Segment(key, None, prod(self.shapes[key]))

        if self.rule == 3:
            return [(key, [whole(key)]) for key, _ in self.tensors]
        found = []
        for layer in self.layers:
            if self.rule == 2 and layer.a:
                rank = self.shapes[layer.a][0]
                segments = [
                    Segment(key, k, prod(self.shapes[key]) // rank)
                    for k in range(rank)
                    for key in (layer.a, layer.b)
                ]
                segments += [whole(key) for key in layer.norm]
            else:
                segments = [whole(key) for key in layer.keys]
            found.append((layer.name, segments))
        return found

    @cached_property
    def _slots(self) -> Tensor:
        """Int64 [n_weights]: the slot, of N·b, of each weight of the concatenated tensors."""
        places, offset = {}, 0
        for (key, shape), size in zip(self.tensors, self._sizes, strict=True):
            places[key] = torch.arange(offset, offset + size).view(shape)
            offset += size
        axis = {layer.a: 0 for layer in self.layers} | {layer.b: 1 for layer in self.layers}
        slots = torch.empty(self.n_weights, dtype=torch.int64)
        for group in self.groups:
            start = group.first_block * self.block_size
            for s in group.segments:
                place = places[s.key]
                part = place if s.channel is None else place.select(axis[s.key], s.channel)
                slots[part.reshape(-1)] = torch.arange(start, start + s.length)
                start += s.length
        return slots

    @cached_property
    def _slots_by_device(self) -> dict[torch.device, Tensor]:
        return {}

    def _slots_on(self, device: torch.device) -> Tensor:
        cache = self._slots_by_device
        if device not in cache:
            cache[device] = self._slots.to(device)
        return cache[device]

    def _check_adapter(self, adapter: Mapping[str, Tensor]) -> torch.Size:
        missing, extra = set(self.shapes) - set(adapter), set(adapter) - set(self.shapes)
        if missing:
            raise CodecError(f"{min(missing)}: missing from the adapter ({len(missing)} missing)")
        if extra:
            raise CodecError(f"{min(extra)}: not a tensor of this layout ({len(extra)} unknown)")
        first = adapter[self.tensors[0][0]]
        lead = first.shape[: first.dim() - len(self.tensors[0][1])]
        for key, shape in self.tensors:
            tensor = adapter[key]
            if tuple(tensor.shape) != (*lead, *shape):
                raise CodecError(
                    f"{key}: shape {list(tensor.shape)}, expected {[*lead, *shape]}"
                    f" (leading dimensions {list(lead)})"
                )
            if not tensor.is_floating_point() or tensor.dtype != first.dtype:
                raise CodecError(
                    f"{key}: {tensor.dtype}; all tensors must be of one floating type,"
                    f" and {self.tensors[0][0]} is {first.dtype}"
                )
            if tensor.device != first.device:
                raise CodecError(f"{key}: on {tensor.device}, others on {first.device}")
        return lead


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
        _check_blocks(blocks, *self.centre.shape)
        return torch.where(self.mask, (blocks - self.centre) / self.scale, 0.0)

    def invert(self, blocks: Tensor) -> Tensor:
        """Normalised [..., N, b] → weights [..., N, b]."""
        _check_blocks(blocks, *self.centre.shape)
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
        return safetensors.torch.save(tensors, {"normalisation": _canonical(about)})

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
        _check_blocks(centre, layout.n_blocks, layout.block_size)
        _check_blocks(scale, layout.n_blocks, layout.block_size)
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
        _check_blocks(blocks, *self.mean.shape)
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
        centres, scales = torch.zeros(mask.shape), torch.ones(mask.shape)
        centres[mask], scales[mask] = means.float(), deviation[ids].float()
        return Normalisation(centres, scales, mask, centre, self.count, self.layout_digest)


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _check_blocks(blocks: Tensor, n_blocks: int, block_size: int) -> None:
    if tuple(blocks.shape[-2:]) != (n_blocks, block_size):
        raise CodecError(
            f"blocks of shape {list(blocks.shape)}; this layout has [..., {n_blocks}, {block_size}]"
        )


def _check_layers(shapes: Mapping[str, tuple[int, ...]], layers: Sequence[LayerGroup]) -> None:
    seen: set[str] = set()
    names: set[str] = set()
    for layer in layers:
        if layer.name in names:
            raise CodecError(f"two layer groups are named {layer.name!r}")
        names.add(layer.name)
        if bool(layer.a) != bool(layer.b):
            raise CodecError(f"layer {layer.name!r}: has only one of the LoRA factors A and B")
        if not layer.keys:
            raise CodecError(f"layer {layer.name!r}: has no tensors")
        for key in layer.keys:
            if key in seen:
                raise CodecError(f"{key}: listed twice in the layer groups")
            if key not in shapes:
                raise CodecError(f"{key}: listed in layer {layer.name!r} but has no shape")
            if any(type(d) is not int or d < 1 for d in shapes[key]):
                raise CodecError(
                    f"{key}: shape {shapes[key]} has a dimension that is not 1 or more"
                )
            seen.add(key)
        if layer.a:
            a, b = shapes[layer.a], shapes[layer.b]
            if len(a) < 2 or len(b) < 2 or a[0] != b[1]:
                raise CodecError(
                    f"{layer.b}: shape {b} does not fit {layer.a} {a}:"
                    " A is [r, ...], B [out, r, ...]"
                )
    left = sorted(set(shapes) - seen)
    if left:
        raise CodecError(f"{left[0]}: in no layer group ({len(left)} such tensors)")
    if not seen:
        raise CodecError("an adapter without tensors has no block layout")
