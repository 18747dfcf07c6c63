"""The block codec over random architectures: exact inverses, grouping rules, layouts as JSON."""

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
from modeling.weights.codec import BlockLayout
from modeling.weights.grouping import CodecError
from tests.modeling.weights.architectures import (
    Architecture,
    Shapes,
    architectures,
    block_sizes,
    draw_adapter,
    example_layout,
    lora_layer,
    rules,
)

FAST = settings(max_examples=60, deadline=None)


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
    return example_layout()


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
