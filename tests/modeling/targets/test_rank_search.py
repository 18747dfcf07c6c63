"""The rank search against brute force, and spectra against a plain SVD."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeling.targets.families import frozen_target
from modeling.targets.lora import AdaptedTranslator, Adapter
from modeling.targets.rank_search import (
    Gains,
    RankError,
    adapted_layers,
    energy_gains,
    mean_gains,
    one_layer_cut,
    rank_costs,
    search_ranks,
    spectra,
    truncated,
)
from modeling.targets.shapes import TranslatorConfig
from tests.rounding import in_float64

TINY: dict[str, Any] = {"width": 8, "text_dim": 6, "heads": 2, "edge_kernel": 3}


def translator(rank: int = 4, ranks: dict[str, int] | None = None) -> AdaptedTranslator:
    torch.manual_seed(0)
    return AdaptedTranslator(frozen_target(TranslatorConfig(**TINY)), rank, ranks)


def trained(adapted: AdaptedTranslator, seed: int = 0) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    zero = adapted.zero_adapter()
    return {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in zero.items()}


def change(adapted: AdaptedTranslator, adapter: Adapter, layer: str) -> Tensor:
    """B·A as the translator itself forms it."""
    merged = adapted.merge(adapter)[f"{layer}.weight"]
    return (merged - dict(adapted.network.named_parameters())[f"{layer}.weight"]).flatten(1)


# What a layer's change is made of


@in_float64()
def test_spectra_are_those_of_the_merged_change() -> None:
    adapted = translator()
    adapter = trained(adapted)
    found = spectra(adapter, adapted_layers(adapted))
    assert set(found) == set(rank_costs(adapted)) and len(found) > 15
    for layer, values in found.items():
        plain = torch.linalg.svdvals(change(adapted, adapter, layer))
        assert 1 <= len(values) <= 4
        torch.testing.assert_close(values, plain[: len(values)])
        assert plain[len(values) :].max() < 1e-7 if len(plain) > len(values) else True


@in_float64()
def test_a_cut_layer_is_the_best_of_its_rank_and_the_others_stay() -> None:
    adapted = translator()
    adapter = trained(adapted)
    layers = adapted_layers(adapted)
    values = spectra(adapter, layers)
    cuts = 0
    for name, rank, cut in one_layer_cut(adapter, layers, (1, 2, 4, 8)):
        adapted.check(cut)
        lost = change(adapted, adapter, name) - change(adapted, cut, name)
        tail = values[name][rank:].square().sum().sqrt()
        assert float(lost.norm()) == pytest.approx(float(tail), rel=1e-7, abs=1e-7)
        assert len(spectra(cut, layers)[name].nonzero()) <= 4
        (mine,) = (g for g in layers if g.name == name)
        assert all(cut[k] is adapter[k] for k in adapter if k not in (mine.a, mine.b))
        cuts += 1
    assert cuts == 4 * len(layers)


def test_costs_are_the_weights_that_a_rank_adds() -> None:
    costs = rank_costs(translator())
    base = translator(1).n_weights
    for layer, cost in costs.items():
        assert translator(1, {layer: 4}).n_weights - base == 3 * cost


@in_float64()
def test_energy_is_a_share_and_every_concept_counts_the_same() -> None:
    adapted = translator()
    layers = adapted_layers(adapted)
    adapter = trained(adapted)
    gains = energy_gains(adapter, layers, (1, 2, 4))
    assert sum(g[4] for g in gains.values()) == pytest.approx(1)
    for by_rank in gains.values():
        assert 0 < by_rank[1] <= by_rank[2] <= by_rank[4]
        assert by_rank[2] <= 2 * by_rank[1]  # concave
    up = {g.b for g in layers}
    louder = {k: 3 * v if k in up else v for k, v in adapter.items()}
    for name, by_rank in energy_gains(louder, layers, (1, 2, 4)).items():
        assert by_rank == pytest.approx(gains[name])
    mean = mean_gains([gains, {n: dict.fromkeys(g, 0.0) for n, g in gains.items()}])
    assert mean["head"][2] == pytest.approx(gains["head"][2] / 2)


def test_nothing_learnt_is_refused() -> None:
    adapted = translator()
    with pytest.raises(RankError, match="does not change any layer"):
        energy_gains(adapted.zero_adapter(), adapted_layers(adapted), (1, 2))
    with pytest.raises(RankError, match="no adapter"):
        mean_gains([])


def test_layers_get_the_ranks_of_their_changes() -> None:
    """Layers made to change by rank 1, 2 or 4: the budget of exactly that finds it again."""
    adapted = translator()
    layers = adapted_layers(adapted)
    adapter = trained(adapted)
    true = {g.name: (1, 2, 4)[i % 3] for i, g in enumerate(layers)}
    true["head"] = 2  # three outputs
    for layer in layers:
        adapter = truncated(adapter, layer, true[layer.name])
    costs = rank_costs(adapted)
    budget = sum(costs[n] * r for n, r in true.items())
    gains = energy_gains(adapter, layers, (1, 2, 4))
    assert search_ranks(gains, costs, budget) == true
    assert search_ranks(gains, costs, 10 * budget) == true  # more would gain nothing


# Sharing out the weights


@st.composite
def problems(draw: st.DrawFn) -> tuple[Gains, dict[str, int], int]:
    """Up to four layers with gains of any shape at up to four ranks, and a budget that may fit."""
    names = [f"layer{i}" for i in range(draw(st.integers(1, 4)))]
    choices = draw(st.sets(st.integers(1, 6), min_size=1, max_size=4))
    gain = st.integers(-50, 50).map(lambda x: x / 8)  # sums are exact
    gains = {n: {r: draw(gain) for r in choices} for n in names}
    costs = {n: draw(st.integers(1, 12)) for n in names}
    return gains, costs, draw(st.integers(0, 150))


def everything(gains: Gains, costs: dict[str, int], budget: int) -> list[dict[str, int]]:
    """All patterns that fit."""
    patterns = (dict(zip(gains, p, strict=True)) for p in itertools.product(*gains.values()))
    return [p for p in patterns if sum(costs[n] * r for n, r in p.items()) <= budget]


def total(gains: Gains, pattern: dict[str, int]) -> float:
    return sum(gains[n][r] for n, r in pattern.items())


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_no_pattern_of_the_budget_gains_more(problem: tuple[Gains, dict[str, int], int]) -> None:
    gains, costs, budget = problem
    fitting = everything(gains, costs, budget)
    if not fitting:
        with pytest.raises(RankError, match="the lowest ranks take"):
            search_ranks(gains, costs, budget)
        return
    found = search_ranks(gains, costs, budget)
    assert found in fitting and list(found) == list(gains)
    assert total(gains, found) == max(total(gains, p) for p in fitting)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), layers=st.integers(1, 4), spare=st.integers(0, 20), cost=st.integers(1, 9))
def test_greedy_is_as_good_where_gains_are_concave_and_costs_equal(
    data: st.DataObject, layers: int, spare: int, cost: int
) -> None:
    steps = {
        f"layer{i}": sorted(
            data.draw(st.lists(st.integers(0, 40), min_size=5, max_size=5)), reverse=True
        )
        for i in range(layers)
    }
    gains: Gains = {n: {r: float(sum(s[:r])) for r in range(1, 6)} for n, s in steps.items()}
    greedy = dict.fromkeys(gains, 1)
    for _ in range(spare):
        open_ = [n for n in gains if greedy[n] < 5]
        if open_:
            greedy[max(open_, key=lambda n: gains[n][greedy[n] + 1] - gains[n][greedy[n]])] += 1
    found = search_ranks(gains, dict.fromkeys(gains, cost), cost * (layers + spare))
    assert total(gains, found) == total(gains, greedy)


def test_greedy_misses_what_is_found() -> None:
    """Unequal costs: the best gain per weight leaves no room for the best pattern."""
    gains: Gains = {"small": {1: 0.0, 2: 3.0}, "large": {1: 0.0, 2: 10.0}}
    costs = {"small": 2, "large": 10}  # 1.5 per weight against 1.0
    assert search_ranks(gains, costs, 22) == {"small": 1, "large": 2}


def test_a_gain_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RankError, match="not finite"):
        search_ranks({"a": {1: float("nan")}}, {"a": 1}, 10)
