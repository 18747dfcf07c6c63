"""Which weights share blocks: the grouping rules of Table 3. No torch: counting blocks is cheap.

Padding is per group, not once at the end of the stream: otherwise rules 1 and 3 would be
byte-identical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from modeling.targets.layers import LayerGroup

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


def group_weights(
    shapes: Mapping[str, tuple[int, ...]], layers: Sequence[LayerGroup], rule: int, block_size: int
) -> tuple[BlockGroup, ...]:
    """The groups of an adapter of these shapes, in block order.

    Rules: 1 = per layer A, then B, then the norm's affine; 2 = per layer interleaved by rank
    channel, A[0], B[:, 0], A[1], B[:, 1], …, then the affine (equal to rule 1 at rank 1); 3 = every
    tensor a group of its own.
    """
    groups: list[BlockGroup] = []
    first = 0
    for name, segments in _segments(shapes, layers, rule):
        count = ceil(sum(s.length for s in segments) / block_size)
        groups.append(BlockGroup(name, first, count, tuple(segments)))
        first += count
    return tuple(groups)


def check_grouping(
    shapes: Mapping[str, tuple[int, ...]], layers: Sequence[LayerGroup], rule: int, block_size: int
) -> None:
    """Raise CodecError unless every key is in exactly one layer and all that follows is defined."""
    if type(rule) is not int or rule not in RULES:
        raise CodecError(f"grouping rule {rule!r} is not one of 1, 2, 3")
    if type(block_size) is not int or block_size < 1:
        raise CodecError(f"block size {block_size!r} is not a whole number of at least 1")
    _check_layers(shapes, layers)


def _segments(
    shapes: Mapping[str, tuple[int, ...]], layers: Sequence[LayerGroup], rule: int
) -> list[tuple[str, list[Segment]]]:
    def whole(key: str) -> Segment:
        return Segment(key, None, prod(shapes[key]))

    if rule == 3:
        return [(key, [whole(key)]) for layer in layers for key in layer.keys]
    found = []
    for layer in layers:
        if rule == 2 and layer.a:
            rank = shapes[layer.a][0]
            segments = [
                Segment(key, k, prod(shapes[key]) // rank)
                for k in range(rank)
                for key in (layer.a, layer.b)
            ]
            segments += [whole(key) for key in layer.norm]
        else:
            segments = [whole(key) for key in layer.keys]
        found.append((layer.name, segments))
    return found


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
