"""Normalisation of blocks: fits at once and in parts, exact inverses, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeling.weights.codec import BlockLayout
from modeling.weights.grouping import CodecError
from modeling.weights.normalisation import Normalisation, NormalisationSums
from tests.modeling.weights.architectures import (
    Architecture,
    Shapes,
    architectures,
    draw_adapter,
    example_layout,
    lora_layer,
    rules,
)
from tests.rounding import rounding


@pytest.fixture
def layout() -> BlockLayout:
    return example_layout()


def training_blocks(layout: BlockLayout, count: int, seed: int) -> Tensor:
    """Adapters whose tensors differ in scale by orders of magnitude, around a common start."""
    start = draw_adapter(layout.shapes, seed)
    change = draw_adapter(layout.shapes, seed + 1, (count,))
    scales = {k: 10.0 ** -(i % 4) for i, k in enumerate(layout.shapes)}
    return layout.to_blocks({k: (start[k] + change[k]) * scales[k] for k in start})


@settings(max_examples=40, deadline=None)
@given(
    architectures(),
    rules,
    st.integers(1, 64),
    st.sampled_from(["element", "tensor"]),
    st.integers(1, 6),
)
def test_normalisation_inverts_and_keeps_padding_zero(
    architecture: Architecture, rule: int, block_size: int, centre: str, count: int
) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    blocks = training_blocks(layout, count, 5)
    fitted = Normalisation.fit(blocks, layout, centre)
    unseen = training_blocks(layout, 2, 50)
    back = fitted.invert(fitted.apply(unseen))
    bound = rounding(4, unseen, fitted.centre)  # a difference, a quotient, a product, a sum
    torch.testing.assert_close(back, unseen, rtol=0, atol=bound)
    dirty = torch.where(layout.mask, unseen, torch.tensor(float("nan")))
    for out in (fitted.apply(dirty), fitted.invert(dirty)):
        assert torch.equal(out[:, ~layout.mask], torch.zeros_like(out[:, ~layout.mask]))
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("centre", ["element", "tensor"])
def test_normalisation_against_numpy(layout: BlockLayout, centre: str) -> None:
    adapters = layout.from_blocks(training_blocks(layout, 7, 3))
    fitted = Normalisation.fit(layout.to_blocks(adapters), layout, centre)
    centres, scales = layout.from_blocks(fitted.centre), layout.from_blocks(fitted.scale)
    for key, tensor in adapters.items():
        values = tensor.double().numpy()
        mean = values.mean(0) if centre == "element" else values.mean()
        np.testing.assert_allclose(
            centres[key].numpy(), np.broadcast_to(mean, values.shape[1:]), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            scales[key].numpy(), np.sqrt(np.mean((values - mean) ** 2)), rtol=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any),
    st.sampled_from(["element", "tensor"]),
    st.randoms(),
)
def test_streaming_fit_equals_direct_fit(sizes: list[int], centre: str, random: object) -> None:
    shapes: Shapes = {}
    layers = [lora_layer(shapes, "a", 2, 3, 4, 3, 1), lora_layer(shapes, "b", 1, 5, 2, 0, 0)]
    layout = BlockLayout.build(shapes, layers, 1, 10)
    # a mean far from zero: plain sums of squares would cancel
    blocks = torch.where(layout.mask, training_blocks(layout, sum(sizes), 8) + 1000, 0.0)
    parts = []
    for chunk in blocks.split(sizes):
        parts.append(NormalisationSums.empty(layout))
        parts[-1].add(chunk)
    random.shuffle(parts)
    merged = NormalisationSums.empty(layout)
    for part in parts:
        merged.merge(part)
    streamed, direct = merged.finish(layout, centre), Normalisation.fit(blocks, layout, centre)
    assert streamed.count == direct.count == sum(sizes)
    torch.testing.assert_close(streamed.centre, direct.centre, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(streamed.scale, direct.scale, rtol=1e-6, atol=1e-9)


def test_a_constant_tensor_gets_the_floor_and_outliers_are_not_clamped(layout: BlockLayout) -> None:
    blocks = training_blocks(layout, 5, 0)
    blocks[:, layout.tensor_ids == 1] = 0.25
    fitted = Normalisation.fit(blocks, layout, floor=1e-3)
    assert torch.equal(fitted.scale[layout.tensor_ids == 1].unique(), torch.tensor([1e-3]))
    far = torch.where(layout.mask, 1e4, 0.0)
    torch.testing.assert_close(
        fitted.invert(fitted.apply(far)), far, rtol=rounding(4, torch.ones(1)), atol=0
    )


def test_normalisation_file(layout: BlockLayout) -> None:
    fitted = Normalisation.fit(training_blocks(layout, 5, 0), layout, "tensor")
    data = fitted.to_bytes()
    assert data == fitted.to_bytes()
    again = Normalisation.from_bytes(data, layout)
    assert (again.kind, again.count, again.layout_digest) == ("tensor", 5, layout.digest())
    assert torch.equal(again.centre, fitted.centre) and torch.equal(again.scale, fitted.scale)
    other = BlockLayout.build(layout.shapes, layout.layers, 1, layout.block_size)
    with pytest.raises(CodecError, match="fit it again"):
        Normalisation.from_bytes(data, other)
    for damaged in (b"", data[:40], data[:-3]):
        with pytest.raises(CodecError, match="not a readable normalisation"):
            Normalisation.from_bytes(damaged, layout)


def test_bad_fits_are_refused(layout: BlockLayout) -> None:
    blocks = training_blocks(layout, 3, 0)
    other = BlockLayout.build(layout.shapes, layout.layers, 1, layout.block_size)
    sums = NormalisationSums.empty(layout)
    with pytest.raises(CodecError, match="no adapters"):
        sums.finish(layout)
    with pytest.raises(CodecError, match="adapter 1 of 3"):
        poisoned = blocks.clone()
        poisoned[1, 0, 0] = float("nan")
        sums.add(poisoned)
    assert sums.count == 0
    sums.add(blocks)
    with pytest.raises(CodecError, match="another block layout"):
        sums.finish(other)
    with pytest.raises(CodecError, match="two different block layouts"):
        sums.merge(NormalisationSums.empty(other))
    with pytest.raises(CodecError, match="neither"):
        sums.finish(layout, "none")
    with pytest.raises(CodecError, match="floor"):
        sums.finish(layout, floor=0.0)
    with pytest.raises(CodecError, match="blocks of shape"):
        sums.finish(layout).apply(torch.zeros(3, 3))
