"""Adapter ↔ equal-sized blocks: the tokeniser of weights (paper Sec. 4.2).

An adapter is cut into groups (grouping.py), each is flattened and padded with zeros to whole blocks
of b weights, and all blocks are stacked to [N, b]. The cut is one index permutation, so both
directions are exact, differentiable and a single gather or scatter.

normalisation.py then brings the tensors, whose scales differ by layer, to unit deviation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from modeling.targets.layers import LayerGroup
from modeling.weights.grouping import BlockGroup, CodecError, check_grouping, group_weights

FORMAT = "denoised-weights/block-layout"
VERSION = 1


@dataclass(frozen=True)
class BlockLayout:
    """How the adapters of one base are cut; make it with `build` or `from_json`."""

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
        check_grouping(shapes, layers, rule, block_size)
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
        return group_weights(self.shapes, self.layers, self.rule, self.block_size)

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
        check_blocks(blocks, self.n_blocks, self.block_size)
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
        return canonical(
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
        if layout.to_json() != canonical(data):
            raise CodecError("block layout contradicts itself: its groups do not follow its rule")
        return layout

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def _sizes(self) -> list[int]:
        return [prod(shape) for _, shape in self.tensors]

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


def canonical(data: object) -> str:
    """JSON in one form: equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def check_blocks(blocks: Tensor, n_blocks: int, block_size: int) -> None:
    """Raise CodecError unless the last two dimensions are [N, b]."""
    if tuple(blocks.shape[-2:]) != (n_blocks, block_size):
        raise CodecError(
            f"blocks of shape {list(blocks.shape)}; this layout has [..., {n_blocks}, {block_size}]"
        )
