"""The block codec over random architectures: exact inverses, grouping rules, normalisation."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from modeling.targets.layers import LayerGroup
from modeling.weights.codec import BlockLayout, CodecError, Normalisation, NormalisationSums

Shapes = dict[str, tuple[int, ...]]
Architecture = tuple[Shapes, list[LayerGroup]]
FAST = settings(max_examples=60, deadline=None)


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


def reference_blocks(
    adapter: Mapping[str, Tensor], layers: list[LayerGroup], rule: int, block_size: int
) -> Tensor:
    """The three rules written out with loops and concatenation."""
    groups: list[list[Tensor]] = []
    for layer in layers:
        lora = [adapter[k] for k in (layer.a, layer.b) if k]
        norm = [adapter[k] for k in layer.norm]
        if rule == 3:
            groups += [[t] for t in lora + norm]
        elif rule == 2 and lora:
            a, b = lora
            woven = [part for k in range(a.shape[0]) for part in (a[k], b[:, k])]
            groups.append(woven + norm)
        else:
            groups.append(lora + norm)
    rows = []
    for group in groups:
        flat = torch.cat([t.flatten() for t in group])
        rows.append(F.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size))
    return torch.cat(rows)


rules = st.sampled_from([1, 2, 3])
block_sizes = st.integers(1, 300)


@FAST
@given(architectures(), rules, block_sizes, st.integers(0, 2**31))
def test_blocks_follow_the_rule_and_invert_exactly(
    architecture: Architecture, rule: int, block_size: int, seed: int
) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    adapter = draw_adapter(shapes, seed)
    blocks = layout.to_blocks(adapter)
    assert torch.equal(blocks, reference_blocks(adapter, layers, rule, block_size))
    assert blocks.shape == (layout.n_blocks, block_size) == layout.mask.shape
    back = layout.from_blocks(blocks)
    assert list(back) == list(layout.shapes) and set(back) == set(shapes)
    assert all(torch.equal(back[k], adapter[k]) for k in shapes)


@FAST
@given(architectures(), rules, block_sizes, st.lists(st.integers(0, 3), min_size=1, max_size=2))
def test_leading_dimensions_are_independent_adapters(
    architecture: Architecture, rule: int, block_size: int, lead: list[int]
) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    adapter = draw_adapter(shapes, 0, tuple(lead))
    blocks = layout.to_blocks(adapter)
    assert blocks.shape == (*lead, layout.n_blocks, block_size)
    for place in np.ndindex(*lead):
        assert torch.equal(
            blocks[place], layout.to_blocks({k: v[place] for k, v in adapter.items()})
        )
    back = layout.from_blocks(blocks)
    assert all(torch.equal(back[k], adapter[k]) for k in shapes)


@FAST
@given(architectures(), rules, block_sizes)
def test_mask_counts_the_weights_and_padding_is_zero(
    architecture: Architecture, rule: int, block_size: int
) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    total = sum(int(np.prod(s)) for s in shapes.values())
    assert int(layout.mask.sum()) == layout.n_weights == total
    blocks = layout.to_blocks({k: torch.ones(s) for k, s in shapes.items()})
    assert torch.equal(blocks == 1, layout.mask) and torch.equal(blocks == 0, ~layout.mask)
    assert layout.mask.any(1).all()  # no block is padding alone
    assert len(layout.block_groups) == layout.n_blocks
    owners = {k: layer.name for layer in layers for k in layer.keys}
    for ids, group in zip(layout.tensor_ids, layout.block_groups, strict=True):
        keys = [layout.tensors[i][0] for i in set(ids.tolist()) - {-1}]
        assert {k if rule == 3 else owners[k] for k in keys} == {group}


@FAST
@given(architectures(), rules, block_sizes)
def test_tensor_ids_name_the_tensor_of_each_slot(
    architecture: Architecture, rule: int, block_size: int
) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    numbered = {k: torch.full(s, float(i)) for i, (k, s) in enumerate(layout.tensors)}
    expected = layout.to_blocks(numbered).long().where(layout.mask, torch.tensor(-1))
    assert torch.equal(layout.tensor_ids, expected)


@FAST
@given(architectures(), rules, block_sizes)
def test_json_round_trip(architecture: Architecture, rule: int, block_size: int) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    again = BlockLayout.from_json(layout.to_json())
    assert again == layout and again.digest() == layout.digest()
    # the order in which the shapes are listed is no part of the layout
    backwards = BlockLayout.build(dict(reversed(shapes.items())), layers, rule, block_size)
    assert backwards.digest() == layout.digest()
    other = BlockLayout.build(shapes, layers, rule, block_size + 1)
    assert other.digest() != layout.digest()


@FAST
@given(architectures(max_rank=1), block_sizes)
def test_rules_1_and_2_coincide_at_rank_1(architecture: Architecture, block_size: int) -> None:
    shapes, layers = architecture
    adapter = draw_adapter(shapes, 1)
    one, two = (BlockLayout.build(shapes, layers, rule, block_size) for rule in (1, 2))
    assert torch.equal(one.to_blocks(adapter), two.to_blocks(adapter))
    assert one.digest() != two.digest()


@FAST
@given(architectures(min_rank=2), block_sizes)
def test_the_three_rules_differ_at_rank_2(architecture: Architecture, block_size: int) -> None:
    shapes, layers = architecture
    adapter = draw_adapter(shapes, 1)
    layouts = [BlockLayout.build(shapes, layers, rule, block_size) for rule in (1, 2, 3)]
    one, two, three = (layout.to_blocks(adapter) for layout in layouts)
    assert not torch.equal(one, two)  # A[1] comes before B[:, 0] in one, after it in two
    assert not torch.equal(two, three)
    # rules 1 and 3 share their order: they differ where a tensor ends within a block
    assume(
        any(
            sum(int(np.prod(shapes[k])) for k in g.keys[:i]) % block_size
            for g in layers
            for i in range(1, len(g.keys))
        )
    )
    assert not torch.equal(one, three)


@FAST
@given(architectures(), rules, block_sizes)
def test_gradients_flow_both_ways(architecture: Architecture, rule: int, block_size: int) -> None:
    shapes, layers = architecture
    layout = BlockLayout.build(shapes, layers, rule, block_size)
    weights = draw_adapter(shapes, 2)
    blocks = torch.zeros(2, layout.n_blocks, block_size, requires_grad=True)
    tensors = layout.from_blocks(blocks)
    sum((tensors[k] * weights[k]).sum() for k in shapes).backward()
    assert blocks.grad is not None
    assert torch.equal(blocks.grad, layout.to_blocks(weights).expand(2, -1, -1))
    leaves = {k: v.requires_grad_() for k, v in draw_adapter(shapes, 3).items()}
    layout.to_blocks(leaves).square().sum().backward()
    assert all(torch.equal(leaves[k].grad, 2 * leaves[k].detach()) for k in shapes)


@pytest.fixture
def layout() -> BlockLayout:
    shapes: Shapes = {}
    layers = [
        lora_layer(shapes, "stem", 2, 3, 6, 3, 1),
        lora_layer(shapes, "attention", 3, 5, 4, 0, 0),
        lora_layer(shapes, "norm", 0, 0, 4, 0, 1),
    ]
    return BlockLayout.build(shapes, layers, 2, 16)


def test_works_under_vmap_and_in_double(layout: BlockLayout) -> None:
    adapter = {k: v.double() for k, v in draw_adapter(layout.shapes, 0, (3,)).items()}
    blocks = layout.to_blocks(adapter)
    assert blocks.dtype == torch.float64
    assert torch.equal(vmap(layout.to_blocks)(adapter), blocks)
    back = vmap(layout.from_blocks)(blocks)
    assert all(torch.equal(back[k], adapter[k]) for k in adapter)


def test_the_index_is_computed_once_per_device_and_not_pickled(layout: BlockLayout) -> None:
    blocks = layout.to_blocks(draw_adapter(layout.shapes, 0))
    layout.from_blocks(blocks)
    assert list(layout._slots_by_device) == [blocks.device]
    again = copy.deepcopy(layout)  # by the same protocol as pickling
    assert again == layout and "_slots_by_device" not in vars(again)


def test_bit_patterns_survive(layout: BlockLayout) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    adapter = {k: odd.repeat(99)[: int(np.prod(s))].view(s) for k, s in layout.shapes.items()}
    back = layout.from_blocks(layout.to_blocks(adapter))
    for k in adapter:
        assert torch.equal(back[k].view(torch.int32), adapter[k].view(torch.int32))
    with pytest.raises(CodecError, match=r"stem\.lora_A\.weight: not finite"):
        layout.check_finite(adapter)
    layout.check_finite(draw_adapter(layout.shapes, 0))


def test_bad_adapters_name_the_tensor(layout: BlockLayout) -> None:
    good = draw_adapter(layout.shapes, 0)
    key = "base_model.model.attention.lora_B.weight"
    with pytest.raises(CodecError, match=r"attention\.lora_B\.weight: missing"):
        layout.to_blocks({k: v for k, v in good.items() if k != key})
    with pytest.raises(CodecError, match="stray: not a tensor"):
        layout.to_blocks({**good, "stray": torch.zeros(1)})
    with pytest.raises(CodecError, match=r"attention\.lora_B\.weight: shape"):
        layout.to_blocks({**good, key: good[key].T})
    with pytest.raises(CodecError, match=r"attention\.lora_B\.weight: shape"):
        layout.to_blocks({**good, key: good[key][None]})
    with pytest.raises(CodecError, match=r"attention\.lora_B\.weight: torch.float64"):
        layout.to_blocks({**good, key: good[key].double()})
    with pytest.raises(CodecError, match="blocks of shape"):
        layout.from_blocks(torch.zeros(layout.n_blocks + 1, 16))
    with pytest.raises(CodecError, match="blocks of shape"):
        layout.from_blocks(torch.zeros(16))


def test_bad_layouts_are_refused() -> None:
    shapes: Shapes = {}
    layer = lora_layer(shapes, "conv", 2, 3, 4, 3, 1)
    build = BlockLayout.build
    for rule in (0, 4, True, "1"):
        with pytest.raises(CodecError, match="rule"):
            build(shapes, [layer], rule, 8)
    for size in (0, -1, 2.0):
        with pytest.raises(CodecError, match="block size"):
            build(shapes, [layer], 1, size)
    with pytest.raises(CodecError, match="extra: in no layer group"):
        build({**shapes, "extra": (3,)}, [layer], 1, 8)
    with pytest.raises(CodecError, match="listed twice"):
        build(shapes, [layer, LayerGroup("again", "", "", layer.norm)], 1, 8)
    with pytest.raises(CodecError, match="two layer groups"):
        build(shapes, [layer, LayerGroup("conv", "", "", ("x",))], 1, 8)
    with pytest.raises(CodecError, match="has no shape"):
        build(shapes, [layer, LayerGroup("other", "", "", ("x",))], 1, 8)
    with pytest.raises(CodecError, match="only one of the LoRA factors"):
        build(shapes, [LayerGroup("conv", layer.a, "", layer.norm)], 1, 8)
    with pytest.raises(CodecError, match="has no tensors"):
        build(shapes, [layer, LayerGroup("empty", "", "", ())], 1, 8)
    with pytest.raises(CodecError, match="does not fit"):
        build({**shapes, layer.b: (4, 3, 1, 1)}, [layer], 1, 8)
    with pytest.raises(CodecError, match="dimension"):
        build({**shapes, layer.norm[0]: (0,)}, [layer], 1, 8)
    with pytest.raises(CodecError, match="without tensors"):
        build({}, [], 1, 8)


def test_damaged_json_is_refused(layout: BlockLayout) -> None:
    data = json.loads(layout.to_json())
    damaged: list[tuple[object, str]] = [
        ({**data, "version": 2}, "this code reads"),
        ({k: v for k, v in data.items() if k != "layers"}, "layers"),
        ({**data, "rule": 1}, "contradicts itself"),
        ({**data, "n_blocks": data["n_blocks"] + 1}, "contradicts itself"),
        ({**data, "tensors": data["tensors"][1:]}, "has no shape"),
        ([], "not a block layout"),
    ]
    for content, message in damaged:
        with pytest.raises(CodecError, match=message):
            BlockLayout.from_json(json.dumps(content))
    with pytest.raises(CodecError, match="not a block layout"):
        BlockLayout.from_json(layout.to_json()[:-5])


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
    torch.testing.assert_close(back, unseen, rtol=1e-5, atol=1e-5)
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
    torch.testing.assert_close(fitted.invert(fitted.apply(far)), far, rtol=1e-5, atol=0)


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
