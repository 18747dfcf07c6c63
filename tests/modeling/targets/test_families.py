"""What holds for every target family, and that nothing downstream knows which one it has."""

from __future__ import annotations

import ast
import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor, nn
from torch.func import vmap

from modeling.cost import TranslatorCost
from modeling.flops import count_flops
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters, translate_all
from modeling.targets.base_training import BaseTraining
from modeling.targets.conv_norm import ChannelAffine, ConvNorm
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import NETWORKS, frozen_target, make_target
from modeling.targets.lora import (
    PREFIX,
    AdaptedTranslator,
    Adapter,
    AdapterError,
    lora_config,
    stack,
    to_files,
)
from modeling.targets.network import TargetNetwork
from modeling.targets.recipe import Recipe
from modeling.targets.resnet_generator import ResNetGenerator
from modeling.targets.shapes import (
    SHAPES,
    DiscriminatorConfig,
    ResNetGeneratorConfig,
    TargetConfig,
    TargetError,
    TranslatorConfig,
    describe,
    from_description,
    target_config,
)
from modeling.weights.codec import BlockLayout
from tests.driver import ROOT
from tests.rounding import in_float64

TEXT_DIM, SIDE = 6, 16
SMALL: dict[str, Any] = {"width": 8, "downs": 1, "heads": 2, "edge_kernel": 3, "blocks": 2}
CRITIC = DiscriminatorConfig(width=4, layers=1)

families = pytest.mark.parametrize("family", NETWORKS)


def shape_of(family: str, **changes: Any) -> TargetConfig:
    return target_config(family, SMALL | changes, TEXT_DIM)


def stirred(network: TargetNetwork) -> TargetNetwork:
    """All weights away from their starts, of which some are zero or one."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return network


def make_base(family: str, **changes: Any) -> TargetNetwork:
    torch.manual_seed(0)
    return stirred(frozen_target(shape_of(family, **changes)))


def random_adapter(adapted: AdaptedTranslator, seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    zero = adapted.zero_adapter()
    return {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in zero.items()}


def as_filed(adapter: Adapter) -> Adapter:
    """Rounded to the float32 of the files."""
    return {k: v.float().to(v.dtype) for k, v in adapter.items()}


def inputs(groups: int = 3, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(groups, batch, 3, SIDE, SIDE, generator=g) * 2 - 1
    tokens = torch.randn(groups, 4, TEXT_DIM, generator=g)
    return x, tokens, torch.arange(4) < torch.tensor([4, 2, 1])[:groups, None]


# The network


@families
@torch.no_grad()
@in_float64()
def test_frozen_statistics_are_the_same_function_at_evaluation(family: str) -> None:
    torch.manual_seed(0)
    network = stirred(make_target(shape_of(family)))
    x, tokens, mask = inputs()
    network.train()
    for _ in range(3):  # running statistics away from their start
        network(x[0] * 2 + 1, tokens[:1], mask[:1])
    before = network.eval()(x[0], tokens[:1], mask[:1])
    frozen = copy.deepcopy(network).freeze_statistics()
    torch.testing.assert_close(frozen(x[0], tokens[:1], mask[:1]), before)
    assert not list(frozen.buffers())
    # and, without dropout, in training mode too
    assert torch.equal(
        frozen.train()(x[1], tokens[:1], mask[:1]), frozen.eval()(x[1], tokens[:1], mask[:1])
    )
    again = frozen_target(network.config)
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(again(x[0], tokens[:1], mask[:1]), frozen(x[0], tokens[:1], mask[:1]))


@families
@torch.no_grad()
def test_it_reads_the_prompt_exactly_if_its_shape_says_so(family: str) -> None:
    network = make_base(family)
    x, tokens, mask = inputs()
    one, other = (network(x[0], tokens[i : i + 1], mask[:1]) for i in (0, 1))
    assert torch.equal(one, other) == (network.config.text_dim == 0)


@families
@torch.no_grad()
def test_with_the_global_skip_it_starts_as_the_identity(family: str) -> None:
    torch.manual_seed(0)
    x, tokens, mask = inputs()
    network = frozen_target(shape_of(family, global_skip=True))
    assert torch.equal(network(x[0], tokens[:1], mask[:1]), x[0])
    without = frozen_target(shape_of(family, global_skip=False))
    assert without(x[0], tokens[:1], mask[:1]).abs().max() < 1


@families
@pytest.mark.parametrize("downs", [1, 2])
@torch.no_grad()
def test_sides_that_do_not_fit_are_refused(family: str, downs: int) -> None:
    network = frozen_target(shape_of(family, downs=downs))
    config, (_, tokens, mask) = network.config, inputs()
    least = max(config.least_side, config.multiple)
    x = torch.zeros(1, 3, least, least + config.multiple)
    assert network(x, tokens[:1], mask[:1]).shape == x.shape
    for side in (least + 1, least - config.multiple):
        with pytest.raises(TargetError, match=f"multiples of {config.multiple}"):
            network(torch.zeros(1, 3, max(side, 1), least), tokens[:1], mask[:1])


@families
def test_a_description_survives_json(family: str) -> None:
    config = shape_of(family, dropout=0.25)
    about = json.loads(json.dumps(describe(config)))
    assert about["family"] == family and from_description(about) == config
    assert type(make_target(config)) is NETWORKS[family]


def test_a_description_without_a_family_is_of_the_first() -> None:
    config = TranslatorConfig(width=8, heads=2, text_dim=TEXT_DIM)
    assert from_description(config.to_dict()) == config
    with pytest.raises(TargetError, match="family=vit: must be one of e2gan, resnet"):
        from_description({"family": "vit"})
    with pytest.raises(TargetError, match="family=vit"):
        target_config("vit", SMALL, TEXT_DIM)


# Its adapters


@families
@torch.no_grad()
@in_float64()
def test_the_zero_adapter_is_the_base(family: str) -> None:
    base = make_base(family)
    adapted = AdaptedTranslator(copy.deepcopy(base), 2)
    x, tokens, mask = inputs()
    made = adapted(adapted.zero_adapter(), x[0], tokens[0], mask[0])
    torch.testing.assert_close(made, base(x[0], tokens[:1], mask[:1]))
    merged = adapted.merge(adapted.zero_adapter())
    assert all(torch.equal(merged[n], p) for n, p in base.named_parameters() if n in merged)


@families
@pytest.mark.parametrize("rank", [1, 3])
@torch.no_grad()
@in_float64()
def test_peft_loads_the_files_and_merges_to_the_same_network(
    tmp_path: Path, family: str, rank: int
) -> None:
    base = make_base(family)
    adapted = AdaptedTranslator(copy.deepcopy(base), rank, {"head": 2})
    adapter = as_filed(random_adapter(adapted, 1))
    for name, data in to_files(adapter, adapted.lora_config, {}).items():
        (tmp_path / name).write_bytes(data)
    x, tokens, mask = inputs()
    ours = adapted(adapter, x[0], tokens[0], mask[0])
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    torch.testing.assert_close(loaded(x[0], tokens[:1], mask[:1]), ours)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(x[0], tokens[:1], mask[:1]), ours)
    assert (ours - base(x[0], tokens[:1], mask[:1])).abs().max() > 0.01


@families
@torch.no_grad()
def test_an_adapter_reaches_every_weight_in_the_order_of_the_forward_pass(family: str) -> None:
    base = make_base(family)
    adapted = AdaptedTranslator(base, 1)
    biases = {n for n, m in base.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    reached = set(adapted.merge(adapted.zero_adapter())) | {f"{n}.bias" for n in biases}
    assert {n for n, _ in base.named_parameters()} <= reached
    called: list[str] = []
    for name, module in base.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | ChannelAffine | nn.LayerNorm):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    x, tokens, mask = inputs()
    base(x[0], tokens[:1], mask[:1])
    keys = [k for g in adapted.groups for k in g.keys]
    names = [k.removeprefix(PREFIX).split(".lora_")[0] for k in keys]
    listed = [n.removesuffix(".weight").removesuffix(".bias") for n in names]
    assert list(dict.fromkeys(listed)) == called


@families
@settings(max_examples=12, deadline=None)
@given(
    rule=st.sampled_from([1, 2, 3]),
    size=st.integers(8, 200),
    rank=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_weights_and_blocks_invert_exactly(
    family: str, rule: int, size: int, rank: int, seed: int
) -> None:
    adapted = AdaptedTranslator(make_base(family), rank)
    layout = BlockLayout.build(adapted.shapes, adapted.groups, rule, size)
    adapter = random_adapter(adapted, seed)
    back = layout.from_blocks(layout.to_blocks(adapter))
    assert back.keys() == adapter.keys()
    assert all(torch.equal(back[k], adapter[k]) for k in adapter)
    assert int(layout.mask.sum()) == adapted.n_weights


@families
@torch.no_grad()
@in_float64()
def test_a_concept_axis_is_one_adapter_after_another(family: str) -> None:
    adapted = AdaptedTranslator(make_base(family), 1)
    adapters = [random_adapter(adapted, i) for i in range(3)]
    x, tokens, mask = inputs()
    single = torch.stack([adapted(a, x[i], tokens[i], mask[i]) for i, a in enumerate(adapters)])
    stacked = stack(adapters)
    torch.testing.assert_close(adapted.translate(stacked, x, tokens, mask), single)
    mapped = vmap(adapted.__call__, randomness="same")(dict(stacked), x, tokens, mask)
    torch.testing.assert_close(mapped, single)


@families
def test_training_trains_the_base_and_then_its_adapters(family: str) -> None:
    g = torch.Generator().manual_seed(0)
    source = torch.randint(60, 196, (8, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    edits = [source + 40, source - 40]  # opposite: one network without a prompt cannot do both
    torch.manual_seed(0)
    network = make_target(shape_of(family, global_skip=True))
    critic = PatchDiscriminator(CRITIC)
    recipe = Recipe(steps=30, batch=8, lr=5e-3, gan_weight=1.0)
    training = BaseTraining(network, critic, recipe)
    text = (torch.zeros(8, 1, TEXT_DIM), torch.ones(8, 1, dtype=torch.bool))
    losses = [
        training.step(to_unit(source), to_unit(source // 2 + 64), *text)["l1"] for _ in range(30)
    ]
    assert losses[-1] < 0.7 * losses[0]

    adapted = AdaptedTranslator(network.eval().freeze_statistics(), 1)
    tokens = torch.zeros(1, TEXT_DIM)
    data = [ConceptData(str(i), source, edit, tokens) for i, edit in enumerate(edits)]
    before = copy.deepcopy(network.state_dict())
    trained = train_adapters(
        adapted, data, [adapted.zero_adapter()] * 2, replace(recipe, lr=2e-2), critic, 0
    )
    for t in trained:
        assert not t.error and t.losses[-1] < 0.5 * t.losses[0]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    made = translate_all(
        adapted, stack([t.adapter or {} for t in trained]), source, [tokens, tokens]
    )
    gaps = (to_unit(made)[:, None] - to_unit(torch.stack(edits))).abs().mean((2, 3, 4, 5))
    assert gaps[0, 0] < gaps[0, 1] and gaps[1, 1] < gaps[1, 0]


@families
def test_its_cost_is_counted_without_its_data(family: str) -> None:
    config = shape_of(family)
    network, (x, tokens, mask) = frozen_target(config), inputs()
    real = count_flops(lambda: network(x[0], tokens[:1], mask[:1])) / 2
    cost = TranslatorCost(config, CRITIC, SIDE, rank=1)
    assert 0.97 * real < cost.forward(2) < 1.1 * real
    assert cost.weights == sum(p.numel() for p in network.parameters())
    assert cost.base_step(2, gan=False) == pytest.approx(3 * real, rel=0.1)


# What no adapter can hold


def test_layers_without_a_place_in_an_adapter_are_refused() -> None:
    published = ResNetGenerator(ResNetGeneratorConfig(width=4, blocks=1))
    with pytest.raises(TargetError, match=r"decoder\.0\.norm: only the statistics of a ConvNorm"):
        published.freeze_statistics()

    class Odd(ResNetGenerator):
        def __init__(self) -> None:
            super().__init__(ResNetGeneratorConfig(width=4, blocks=1, transposed=False))
            self.odd = nn.GroupNorm(1, 4)

    with pytest.raises(AdapterError, match="odd: a GroupNorm can take no LoRA"):
        lora_config(Odd().freeze_statistics(), 1)


@torch.no_grad()
@in_float64()
def test_a_reflected_border_is_pytorchs() -> None:
    torch.manual_seed(0)
    layer = ConvNorm(3, 5, 5, stride=2, relu=False, reflect=True).eval()
    plain = nn.Conv2d(3, 5, 5, 2, 2, bias=False, padding_mode="reflect")
    plain.load_state_dict(layer.conv.state_dict())
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(layer(x), layer.norm(plain(x)))


# Nothing downstream knows the family

REGISTRY = ROOT / "modeling" / "targets" / "families.py"
SHAPES_FILE = ROOT / "modeling" / "targets" / "shapes.py"


def modules() -> list[Path]:
    found = [
        p for folder in ("modeling", "pipelines", "tuning") for p in (ROOT / folder).rglob("*.py")
    ]
    assert REGISTRY in found and len(found) > 50
    return found


@cache
def parts_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports_of(path: Path) -> set[str]:
    out = set()
    for node in parts_of(path):
        if isinstance(node, ast.ImportFrom):
            out |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
    return out


def test_only_the_registry_imports_a_family() -> None:
    """A baseline may train a family's network from scratch; what adapts one may not know it."""
    theirs = {network.__module__ for network in NETWORKS.values()}
    assert theirs <= imports_of(REGISTRY)
    for path in modules():
        used = imports_of(path)
        adapts = used & {
            "modeling.targets.lora",
            "modeling.weights.codec",
            "modeling.weights.normalisation",
            "modeling.targets.families",
        }
        if path != REGISTRY and adapts:
            assert not used & theirs, f"{path.name} imports {used & theirs}"
        assert path == REGISTRY or "modeling.targets.translator" not in used, path.name


def test_every_shape_has_a_network() -> None:
    assert set(SHAPES) == set(NETWORKS)


def test_only_the_registry_and_the_default_name_a_family() -> None:
    allowed = {REGISTRY, SHAPES_FILE, ROOT / "pipelines/config/sections/training.py"}
    for path in modules():
        texts = {n.value for n in parts_of(path) if type(n) is ast.Constant}
        named = texts & set(NETWORKS)
        assert path in allowed or not named, f"{path.name} names {named}"
