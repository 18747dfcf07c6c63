"""Adapters against PEFT itself, and the concept axis against one adapter after another."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from modeling.targets.conv_norm import ConvNorm
from modeling.targets.lora import (
    CONFIG_FILE,
    MERGED,
    PREFIX,
    SHARED,
    WAYS,
    WEIGHTS_FILE,
    AdaptedTranslator,
    Adapter,
    AdapterError,
    from_bytes,
    lora_config,
    stack,
    to_files,
    unstack,
)
from modeling.targets.network import TargetNetwork
from modeling.targets.resnet_generator import ResNetGenerator
from modeling.targets.shapes import ResNetGeneratorConfig, TranslatorConfig
from modeling.targets.translator import Translator
from modeling.weights.codec import BlockLayout
from tests.rounding import in_float64

TINY: dict[str, Any] = {"width": 8, "text_dim": 6, "heads": 2, "edge_kernel": 3}


class Nested(Translator):
    """Has layers whose names end in other layers' full names: `inner.head`, `inner.up.conv`."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__(config)
        self.inner = nn.ModuleDict({"head": nn.Conv2d(3, 3, 3, 1, 1), "up": ConvNorm(3, 3, 3)})

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        y = super().forward(x, tokens, mask)
        return y + self.inner["up"](self.inner["head"](y))


def make_base(kind: type[Translator] = Translator, **changes: Any) -> Translator:
    """A frozen base with weights, biases and affines away from their starts."""
    torch.manual_seed(0)
    base = kind(TranslatorConfig(**(TINY | changes))).freeze_statistics().eval()
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return base


def make_resnet(dropout: float = 0.5) -> ResNetGenerator:
    torch.manual_seed(0)
    shape = ResNetGeneratorConfig(
        width=4, downs=1, blocks=2, edge_kernel=3, dropout=dropout, transposed=False
    )
    base = ResNetGenerator(shape).freeze_statistics().eval()
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return base


BASES: dict[str, Callable[[], TargetNetwork]] = {
    "translator": make_base,
    "gated translator": lambda: make_base(gated=True, feed_forward=2, downs=1),
    "resnet": make_resnet,
}


def random_adapter(translator: AdaptedTranslator, seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    zero = translator.zero_adapter()
    return {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in zero.items()}


def as_filed(adapter: Adapter) -> Adapter:
    """Rounded to the float32 of the files."""
    return {k: v.float().to(v.dtype) for k, v in adapter.items()}


def inputs(groups: int = 3, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(groups, batch, 3, 8, 8, generator=g) * 2 - 1
    tokens = torch.randn(groups, 4, 6, generator=g)
    return x, tokens, torch.arange(4) < torch.tensor([4, 2, 1])[:groups, None]


def write(folder: Path, adapter: Adapter, translator: AdaptedTranslator) -> None:
    for name, data in to_files(adapter, translator.lora_config, {"concept_id": "c"}).items():
        (folder / name).write_bytes(data)


RANKS = pytest.mark.parametrize(
    ("kind", "rank", "ranks"),
    [
        (Translator, 1, None),
        (Translator, 2, None),
        (Translator, 1, {"up.conv": 3, "head": 2, "transformer.cross_attention.key": 4}),
        (Nested, 1, {"head": 2, "up.conv": 3}),
        (Nested, 2, {"inner.head": 1, "inner.up.conv": 3}),
    ],
    ids=["rank 1", "rank 2", "overrides", "overridden name ends others", "others end in it"],
)


@RANKS
@torch.no_grad()
@in_float64()
def test_the_folder_is_a_peft_adapter(
    tmp_path: Path, kind: type[Translator], rank: int, ranks: dict[str, int] | None
) -> None:
    base = make_base(kind)
    translator = AdaptedTranslator(copy.deepcopy(base), rank, ranks)
    adapter = as_filed(random_adapter(translator, 1))
    for name, r in (ranks or {}).items():
        assert adapter[f"{PREFIX}{name}.lora_A.weight"].shape[0] == r
    assert adapter[f"{PREFIX}stem.conv.lora_A.weight"].shape[0] == rank
    write(tmp_path, adapter, translator)

    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    state = get_peft_model_state_dict(loaded)
    assert state.keys() == adapter.keys()
    assert all(torch.equal(state[k], adapter[k]) for k in adapter)

    x, tokens, mask = inputs()
    expected = loaded(x[0], tokens[:1], mask[:1])
    found = translator(adapter, x[0], tokens[0], mask[0])
    torch.testing.assert_close(found, expected)
    assert (found - base(x[0], tokens[:1], mask[:1])).abs().max() > 0.05

    merged = loaded.merge_and_unload()
    weights = dict(merged.named_parameters())
    ours = translator.merge(adapter)
    for name, value in ours.items():
        torch.testing.assert_close(value, weights[name], msg=name)
    untouched = weights.keys() - ours.keys()
    assert all(n.endswith("bias") for n in untouched)
    original = dict(base.named_parameters())
    assert all(torch.equal(weights[n], original[n]) for n in untouched)


@torch.no_grad()
@in_float64()
def test_zero_adapter_is_the_base_and_a_fresh_copy() -> None:
    base = make_base()
    translator = AdaptedTranslator(copy.deepcopy(base), 1)
    x, tokens, mask = inputs()
    zero = translator.zero_adapter()
    translator.check(zero)
    out = translator(zero, x[0], tokens[0], mask[0])
    torch.testing.assert_close(out, base(x[0], tokens[:1], mask[:1]))
    for value in zero.values():
        value.fill_(7.0)
    assert all((v != 7).any() for v in translator.zero_adapter().values())


def test_start_is_pefts() -> None:
    """PEFT on the same base has the same shapes, zeros, affines and spread of A."""
    base = make_base()
    translator = AdaptedTranslator(copy.deepcopy(base), 2)
    ours = translator.zero_adapter()
    model = get_peft_model(copy.deepcopy(base), lora_config(base, 2))
    theirs = get_peft_model_state_dict(model)
    assert {k: tuple(v.shape) for k, v in theirs.items()} == translator.shapes
    assert sum(v.numel() for v in theirs.values()) == translator.n_weights
    for key, value in ours.items():
        if "lora_A" not in key:
            assert torch.equal(value, theirs[key]), key
            continue
        bound = math.prod(value.shape[1:]) ** -0.5
        for start in (value, theirs[key]):
            assert start.abs().max() <= torch.tensor(bound)
        if value.numel() > 30:  # uniform up to the bound
            assert value.abs().max() > 0.8 * bound
            assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.35)


def test_start_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = AdaptedTranslator(make_base(), 1, seed=5).zero_adapter()
    torch.manual_seed(2)
    again = AdaptedTranslator(make_base(), 1, seed=5).zero_adapter()
    other = AdaptedTranslator(make_base(), 1, seed=6).zero_adapter()
    assert all(torch.equal(first[k], again[k]) for k in first)
    differ = {k for k in first if not torch.equal(first[k], other[k])}
    assert differ == {k for k in first if "lora_A" in k}


def test_no_running_statistics_anywhere(tmp_path: Path) -> None:
    translator = AdaptedTranslator(make_base(), 1)
    write(tmp_path, translator.zero_adapter(), translator)
    with safe_open(tmp_path / WEIGHTS_FILE, "pt") as file:
        keys = set(file.keys())
        assert file.metadata()["concept_id"] == "c"
    assert keys == set(translator.shapes)
    assert not [k for k in keys if "running" in k or "num_batches" in k]
    assert not list(translator.network.buffers())


def test_a_base_with_running_statistics_is_refused() -> None:
    base = Translator(TranslatorConfig(**TINY))
    with pytest.raises(AdapterError, match="freeze_statistics"):
        AdaptedTranslator(base, 1)


def test_a_rank_for_an_unknown_layer_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"'up\.cnv'"):
        AdaptedTranslator(make_base(), 1, {"up.cnv": 2})


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "inf"])
def test_check_names_what_is_wrong(fault: str) -> None:
    translator = AdaptedTranslator(make_base(), 1)
    adapter = translator.zero_adapter()
    key = f"{PREFIX}up.conv.lora_B.weight"
    if fault == "missing":
        del adapter[key]
    elif fault == "extra":
        key = f"{PREFIX}up.conv.lora_C.weight"
        adapter[key] = torch.zeros(1)
    elif fault == "shape":
        adapter[key] = adapter[key].expand(-1, 2, -1, -1)
    else:
        adapter[key][0] = float(fault)
    message = {"missing": "1 tensors missing", "extra": "1 unknown", "shape": "shape"}
    with pytest.raises(AdapterError, match=message.get(fault, "not finite")) as caught:
        translator.check(adapter)
    assert key in str(caught.value)


def test_check_refuses_an_adapter_of_another_base() -> None:
    wide = AdaptedTranslator(make_base(width=16), 1).zero_adapter()
    with pytest.raises(AdapterError, match="this base has"):
        AdaptedTranslator(make_base(), 1).check(wide)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", BASES.values(), ids=list(BASES))
@torch.no_grad()
@in_float64()
def test_many_adapters_at_once_equal_one_at_a_time(
    make: Callable[[], TargetNetwork], way: str
) -> None:
    translator = AdaptedTranslator(make(), 1, {"head": 2})
    adapters = [random_adapter(translator, i) for i in range(3)]
    x, tokens, mask = inputs()
    one_by_one = torch.stack(
        [translator(a, x[i], tokens[i], mask[i]) for i, a in enumerate(adapters)]
    )
    stacked = stack(adapters)
    together = translator.translate(stacked, x, tokens, mask, way)
    torch.testing.assert_close(together, one_by_one)
    other = translator.translate(stacked, x.flip(0), tokens, mask, way)
    assert (together[0] - other[0]).abs().max() > 0.01
    for a, b in zip(adapters, unstack(stacked), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("make", BASES.values(), ids=list(BASES))
@in_float64()
def test_gradients_of_all_ways_agree_and_stay_apart(make: Callable[[], TargetNetwork]) -> None:
    """Each adapter's gradient is its own, whichever way they go, and the base has none."""
    translator = AdaptedTranslator(make(), 1)
    x, tokens, mask = inputs()
    stacked = stack([random_adapter(translator, i) for i in range(3)])

    def gradients(way: str) -> Adapter:
        leaves = {k: v.clone().requires_grad_() for k, v in stacked.items()}
        out = translator.translate(leaves, x, tokens, mask, way)
        out[1:].square().mean().backward()
        return {k: v.grad for k, v in leaves.items() if v.grad is not None}

    merged = gradients(MERGED)
    reached = {k for k in stacked if merged[k][1:].ne(0).any()}
    assert len(reached) > len(stacked) // 2
    for way in WAYS:
        found = gradients(way)
        assert found.keys() == merged.keys() == stacked.keys()
        for key in stacked:
            torch.testing.assert_close(found[key], merged[key], msg=f"{way}: {key}")
            assert found[key][0].eq(0).all(), f"{way}: {key}"
    assert all(p.grad is None for p in translator.network.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "dropping", [lambda: make_base(dropout=0.5), make_resnet], ids=["translator", "resnet"]
)
@torch.no_grad()
def test_all_concepts_share_the_dropout_draw(
    dropping: Callable[[], TargetNetwork], way: str
) -> None:
    translator = AdaptedTranslator(dropping(), 1)
    x, tokens, mask = (v[:1].expand(3, *v.shape[1:]) for v in inputs())
    stacked = stack([random_adapter(translator, 0)] * 3)
    still = translator.translate(stacked, x, tokens, mask, way)
    translator.network.train()
    out = translator.translate(stacked, x, tokens, mask, way)
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
    assert not torch.allclose(out, still, atol=1e-3)
    assert not torch.allclose(out, translator.translate(stacked, x, tokens, mask, way), atol=1e-3)


@in_float64()
def test_side_by_side_draws_the_dropout_that_one_concept_after_another_draws() -> None:
    translator = AdaptedTranslator(make_base(dropout=0.5), 1)
    x, tokens, mask = inputs()
    stacked = stack([random_adapter(translator, i) for i in range(3)])
    translator.network.train()
    found = []
    for way in (MERGED, SHARED):
        torch.manual_seed(7)
        found.append(translator.translate(stacked, x, tokens, mask, way))
    torch.testing.assert_close(*found)


def test_side_by_side_shares_the_weights_of_the_base() -> None:
    """Also after the base was changed, as a device or a type changes it."""
    translator = AdaptedTranslator(make_base(), 1)
    x, tokens, mask = inputs()
    stacked = stack([translator.zero_adapter()] * 3)
    before = translator.translate(stacked, x, tokens, mask, SHARED)
    translator.network.to(torch.float64)
    adapters = {k: v.double() for k, v in stacked.items()}
    after = translator.translate(adapters, x.double(), tokens.double(), mask, SHARED)
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before)


@pytest.mark.parametrize("kind", [Translator, Nested])
def test_layer_groups_hold_every_key_once_in_order(kind: type[Translator]) -> None:
    translator = AdaptedTranslator(make_base(kind), 2)
    keys = [k for g in translator.groups for k in g.keys]
    assert len(keys) == len(set(keys)) and set(keys) == set(translator.shapes)
    by_name = {g.name: g for g in translator.groups}
    for name in ("stem", "block1.first", "up", "decoder.0"):
        norm = (f"{PREFIX}{name}.norm.weight", f"{PREFIX}{name}.norm.bias")
        assert by_name[f"{name}.conv"].norm == norm
    # a LayerNorm in front of its linear layers goes to the layer before it
    assert f"{PREFIX}transformer.norm_self.weight" in by_name["down.conv"].norm
    layout = BlockLayout.build(translator.shapes, translator.groups, 1, 16)
    adapter = random_adapter(translator, 3)
    back = layout.from_blocks(layout.to_blocks(adapter))
    assert all(torch.equal(back[k], adapter[k]) for k in adapter)
    # tensors that are views of one block tensor can be saved
    again = from_bytes(to_files(back, translator.lora_config, {})[WEIGHTS_FILE], "x")
    assert again.keys() == adapter.keys()
    assert all(torch.equal(again[k], adapter[k]) for k in adapter)


def test_files_are_the_same_bytes_for_the_same_adapter() -> None:
    translator = AdaptedTranslator(make_base(), 1)
    adapter = random_adapter(translator, 0)
    about = {"step": "3", "concept_id": "c", "seed": "0"}
    first = to_files(adapter, translator.lora_config, about)
    assert set(first) == {WEIGHTS_FILE, CONFIG_FILE}
    shuffled = dict(reversed(adapter.items()))
    for _ in range(10):  # safetensors alone writes metadata in random order
        again = to_files(shuffled, AdaptedTranslator(make_base(), 1).lora_config, about)
        assert again == first


@pytest.fixture(scope="module")
def weights_file() -> bytes:
    translator = AdaptedTranslator(make_base(), 1)
    return to_files(translator.zero_adapter(), translator.lora_config, {})[WEIGHTS_FILE]


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_files_name_their_origin(weights_file: bytes, cut: float) -> None:
    with pytest.raises(AdapterError, match=r"run/adapters/c/adapter_model\.safetensors"):
        from_bytes(
            weights_file[: int(cut * len(weights_file))], "run/adapters/c/adapter_model.safetensors"
        )


def test_files_that_are_something_else_are_refused() -> None:
    for data in (b"", b"PK\x03\x04" + bytes(100), b"{}", bytes(1000)):
        with pytest.raises(AdapterError, match="not a readable"):
            from_bytes(data, Path("x.safetensors"))
