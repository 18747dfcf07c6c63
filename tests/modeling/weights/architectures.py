"""Random adapters of random architectures, for the tests of codec and normalisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor

from modeling.targets.layers import LayerGroup
from modeling.weights.codec import BlockLayout

Shapes = dict[str, tuple[int, ...]]
Architecture = tuple[Shapes, list[LayerGroup]]


def lora_layer(
    shapes: Shapes, name: str, rank: int, c_in: int, c_out: int, kernel: int, norms: int
) -> LayerGroup:
    """Add one layer's tensors to `shapes`; kernel 0 is linear, rank 0 a norm alone."""
    a = b = ""
    if rank:
        a, b = f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight"
        shapes[a] = (rank, c_in, kernel, kernel) if kernel else (rank, c_in)
        shapes[b] = (c_out, rank, 1, 1) if kernel else (c_out, rank)
    norm = tuple(
        f"base_model.model.{name}.norm{i}.{kind}"
        for i in range(norms)
        for kind in ("weight", "bias")
    )
    shapes.update({key: (c_out,) for key in norm})
    return LayerGroup(name, a, b, norm)


@st.composite
def architectures(draw: st.DrawFn, min_rank: int = 1, max_rank: int = 4) -> Architecture:
    shapes: Shapes = {}
    layers = []
    for i in range(draw(st.integers(1, 5))):
        alone = i > 0 and draw(st.integers(0, 4)) == 0
        rank = 0 if alone else draw(st.integers(min_rank, max_rank))
        size = st.integers(1, 7)
        norms = draw(st.integers(1 if alone else 0, 2))
        kernel = draw(st.sampled_from([0, 1, 3]))
        layers.append(lora_layer(shapes, f"l{i}", rank, draw(size), draw(size), kernel, norms))
    return shapes, layers


def draw_adapter(
    shapes: Mapping[str, tuple[int, ...]], seed: int, lead: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(*lead, *s, generator=generator) for k, s in shapes.items()}


rules = st.sampled_from([1, 2, 3])
block_sizes = st.integers(1, 300)


def example_layout() -> BlockLayout:
    """A convolution with a norm, a linear layer, a norm alone; rule 2, blocks of 16."""
    shapes: Shapes = {}
    layers = [
        lora_layer(shapes, "stem", 2, 3, 6, 3, 1),
        lora_layer(shapes, "attention", 3, 5, 4, 0, 0),
        lora_layer(shapes, "norm", 0, 0, 4, 0, 1),
    ]
    return BlockLayout.build(shapes, layers, 2, 16)
