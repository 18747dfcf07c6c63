"""Which rank each layer's LoRA gets: the most of what high-rank adapters learn, at a given size.

E²GAN (Gong et al., ICML 2024) finds a rank per layer by "a simple yet effective rank search"; we
know neither its exact steps nor the pattern it found. This one trains adapters of the highest rank
on the base's concepts and asks of each layer's change B·A what is lost at a lower rank, by its
singular values (as AdaLoRA shares out ranks, Zhang et al., ICLR 2023) or by the loss itself. The
ranks are then frozen: all adapters share one layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd, prod

import numpy as np
import torch
from torch import Tensor

from modeling.targets.layers import LayerGroup
from modeling.targets.lora import AdaptedTranslator, Adapter

Gains = dict[str, dict[int, float]]
"""Layer → rank → how much of what high-rank adapters learn is kept at it; more is better."""


class RankError(ValueError):
    """Ranks that cannot be chosen; the message says which number does not fit."""


def adapted_layers(translator: AdaptedTranslator) -> list[LayerGroup]:
    """The layers that have LoRA, in order."""
    return [g for g in translator.groups if g.a]


def rank_costs(translator: AdaptedTranslator) -> dict[str, int]:
    """Weights of A and B per unit of rank, by layer: inputs × kernel + outputs."""
    shapes = translator.shapes
    return {
        g.name: prod(shapes[g.a][1:]) + shapes[g.b][0]  # B's own kernel is 1×1
        for g in adapted_layers(translator)
    }


def spectra(adapter: Mapping[str, Tensor], layers: Sequence[LayerGroup]) -> dict[str, Tensor]:
    """Singular values, descending, of each layer's change B·A: float64 [≤ rank], by layer."""
    out = {}
    for layer in layers:
        up, down = _factors(adapter, layer)
        # of the two triangles' product, [r, r] at most: B·A itself is never formed
        r_up = torch.linalg.qr(up, mode="r").R
        r_down = torch.linalg.qr(down.T, mode="r").R
        out[layer.name] = torch.linalg.svdvals(r_up @ r_down.T)
    return out


def truncated(adapter: Mapping[str, Tensor], layer: LayerGroup, rank: int) -> Adapter:
    """The adapter with one layer's B·A replaced by its best approximation of a rank.

    Shapes stay: the rank channels above are zero. (Eckart and Young, 1936: cut by singular values.)
    """
    up, down = _factors(adapter, layer)
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    up, down = torch.zeros_like(up), torch.zeros_like(down)
    kept = min(rank, len(s))
    up[:, :kept] = q_up @ u[:, :kept] * s[:kept]
    down[:kept] = vh[:kept] @ q_down.T
    new = {layer.b: up, layer.a: down}
    return dict(adapter) | {k: v.view_as(adapter[k]).to(adapter[k]) for k, v in new.items()}


def _factors(adapter: Mapping[str, Tensor], layer: LayerGroup) -> tuple[Tensor, Tensor]:
    """B [out, r] and A [r, in × kernel] in float64."""
    return adapter[layer.b].double().flatten(1), adapter[layer.a].double().flatten(1)


def energy_gains(
    adapter: Mapping[str, Tensor], layers: Sequence[LayerGroup], choices: Sequence[int]
) -> Gains:
    """Energy (squared norm) of each layer's change kept at each rank, all layers' total being 1.

    RankError if no layer was changed at all.
    """
    energies = {name: s.square() for name, s in spectra(adapter, layers).items()}
    total = float(sum(e.sum() for e in energies.values()))
    if not total > 0:  # nor NaN
        raise RankError("the adapter does not change any layer: train it first")
    return {n: {r: float(e[:r].sum()) / total for r in choices} for n, e in energies.items()}


def one_layer_cut(
    adapter: Mapping[str, Tensor], layers: Sequence[LayerGroup], choices: Sequence[int]
) -> Iterator[tuple[str, int, Adapter]]:
    """(layer, rank, adapter with that layer alone cut to that rank), for gains by the loss."""
    for layer in layers:
        for rank in choices:
            yield layer.name, rank, truncated(adapter, layer, rank)


def mean_gains(gains: Sequence[Gains]) -> Gains:
    """Mean over concepts; RankError without any."""
    if not gains:
        raise RankError("no adapter to search ranks with")
    first = gains[0]
    return {n: {r: float(np.mean([g[n][r] for g in gains])) for r in first[n]} for n in first}


def search_ranks(gains: Gains, costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """A rank for each layer: the largest total gain with A and B of at most `budget` weights.

    A multiple-choice knapsack, solved by dynamic programming over the weights spent. It is exact
    for any gains and costs. Adding the best marginal gain per weight step by step is so only for
    concave gains, layers of equal cost and consecutive ranks. Of equal gains the lower rank
    is taken. RankError if even the lowest ranks do not fit, or a gain is not finite.
    """
    if not all(np.isfinite(list(by_rank.values())).all() for by_rank in gains.values()):
        raise RankError("a gain is not finite")
    ranks = {name: sorted(by_rank) for name, by_rank in gains.items()}
    least = sum(costs[name] * ranks[name][0] for name in gains)
    if least > budget:
        raise RankError(f"the lowest ranks take {least} weights, the budget is {budget}")
    unit = gcd(*(costs[name] for name in gains))
    places = budget // unit + 1
    best = np.zeros(places)  # largest gain of the layers so far, by units of weights at most spent
    picks = []
    for name, choices in ranks.items():
        options = np.full((len(choices), places), -np.inf)
        for option, rank in zip(options, choices, strict=True):
            spent = costs[name] * rank // unit
            if spent < places:
                option[spent:] = best[: places - spent] + gains[name][rank]
        picks.append(options.argmax(0).astype(np.int16))
        best = options.max(0)
    found: dict[str, int] = {}
    left = places - 1
    for name, pick in zip(reversed(ranks), reversed(picks), strict=True):
        found[name] = ranks[name][pick[left]]
        left -= costs[name] * found[name] // unit
    return {name: found[name] for name in gains}
