"""Cheap predictions of an adapter that a weight generator has to beat to be worth its training.

Published weight generators mostly replicate or average their training set, so every table carries
these rows. Each is a weighted sum of the training adapters (their mean, the one with the nearest
text, ridge regression from text), with weights that follow from the texts: the adapters themselves,
85 GB of the paper's, are read in passes and never held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RIDGES = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
LANDMARKS = 2000
"""Of more training prompts so many carry the regression: with all of the paper's 85,145 its matrix
alone would take 58 GB."""
CHUNK = 1024
"""Rows whose kernel with the landmarks, or columns whose products, are held at once."""


class ControlError(ValueError):
    """Training adapters, embeddings or ids from which a control cannot be made."""


def nearest_text(queries: Tensor, pooled: Tensor) -> Tensor:
    """Index [Q] of the training prompt most similar (cosine) to each of [Q, D], among [M, D]."""
    _check(pooled, least=1)
    if queries.shape[1:] != pooled.shape[1:]:
        raise ControlError(
            f"queries of shape {list(queries.shape)}, embeddings {list(pooled.shape)}"
        )
    known = F.normalize(pooled.double(), dim=1)
    return (F.normalize(queries.double(), dim=1) @ known.T).argmax(1)


def noised(blocks: Tensor, deviation: Tensor, scale: float, seed: int) -> Tensor:
    """Blocks [N, b] plus Gaussian noise of `scale` times each slot's training deviation [N, b]."""
    if not 0 <= scale < inf:
        raise ControlError(f"noise scale {scale!r} is not a finite number of 0 or more")
    noise = torch.randn(blocks.shape, generator=torch.Generator().manual_seed(seed))
    return blocks + scale * deviation * noise.to(blocks)


def landmarks_of(count: int, most: int = LANDMARKS) -> Tensor:
    """Indices, in order, of the rows that carry a regression on `count`: all, or a draw."""
    draw = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return draw[:most].sort().values


def gram(rows: Tensor) -> Tensor:
    """Float64 [m, m]: inner products of rows [m, width] about their mean, by columns."""
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(CHUNK, dim=1):
        centred = columns.double() - columns.double().mean(0)
        out += centred @ centred.T
    return out


@dataclass(frozen=True)
class KernelRidge:
    """RBF kernel ridge regression from pooled text to blocks, with an unpenalised intercept.

    Dual form: K = exp(-gamma·|x - x'|²), G = K + ridge·I, f(x) = intercept + k(x)·alpha. It is
    linear in the training blocks, f(x) = Σ wᵢ(x)·yᵢ with Σ wᵢ = 1, and far from all training
    prompts it returns the intercept, a weighted mean adapter.

    With more rows than landmarks the function is a sum of kernels at m of them, still fitted to all
    rows (subset of regressors; Quiñonero-Candela and Rasmussen 2005, Sec. 5.1).
    """

    pooled: Tensor
    """Float64 [m, D]: the prompts at which the kernels are."""
    gamma: float
    ridge: float
    loo_r2: float
    """1 - squared leave-one-out error ÷ that of the mean of the others, on these m rows; at most 1,
    may be < 0."""

    @classmethod
    def choose(
        cls,
        pooled: Tensor,
        products: Tensor,
        ridges: Sequence[float] = RIDGES,
        bandwidths: Sequence[float] = BANDWIDTHS,
    ) -> KernelRidge:
        """Choose ridge and bandwidth by leave-one-out on rows with prompts [m, D].

        products: `gram` of their blocks. `bandwidths` are in units of the median distance between
        prompts: gamma = 1 / (2·(bandwidth·median)²). The choice minimises squared error over all
        slots, so take *normalised* blocks, or tensors of large deviation decide alone. Repeated
        prompts (several checkpoints, or one text twice) would leak across the folds: one row per
        concept. Raises ControlError on fewer than two rows, non-finite values or a non-positive
        grid.
        """
        _check(pooled, least=2)
        if not ridges or not bandwidths or min(*ridges, *bandwidths) <= 0:
            raise ControlError("ridges and bandwidths must be non-empty and positive")
        if products.shape != (len(pooled), len(pooled)) or not torch.isfinite(products).all():
            raise ControlError(f"products {list(products.shape)} are not finite [m, m]")
        x, count = pooled.double(), len(pooled)
        # errors need the targets only through their Gram matrix: the search costs M³, not M²·N·b
        squared = _squared(x, x)
        median = float(squared[~torch.eye(count, dtype=torch.bool)].median())
        unit = median or 1.0  # all prompts equal: every bandwidth gives the same constant kernel
        best, choice = inf, (0.0, 0.0)
        for bandwidth in bandwidths:
            gamma = 1 / (2 * bandwidth**2 * unit)
            values, vectors = torch.linalg.eigh(torch.exp(-gamma * squared))
            for ridge in ridges:
                centred = _centred_inverse(values, vectors, ridge)
                error = float(_loo_squared_errors(centred, products).sum())
                if error < best:
                    best, choice = error, (gamma, ridge)
        baseline = float(products.trace()) * (count / (count - 1)) ** 2
        return cls(x, *choice, 1 - best / baseline if baseline > 0 else 1.0)

    def weights(self, queries: Tensor, pooled: Tensor) -> Tensor:
        """Float64 [Q, M]: of each training row in the prediction for queries [Q, D].

        pooled [M, D]: all rows that it is fitted to, the landmarks among them.
        """
        _check(pooled, least=len(self.pooled))
        if queries.dim() != 2 or queries.shape[1:] != self.pooled.shape[1:]:
            raise ControlError(
                f"queries of shape {list(queries.shape)}, embeddings {list(self.pooled.shape)}"
            )
        asked = self._kernel(queries)
        if len(pooled) == len(self.pooled):
            # (K + ridge·I)·alpha + intercept = y, averaged over the rows; alpha's rows sum to 0
            kernel = self._kernel(self.pooled)
            values, vectors = torch.linalg.eigh(kernel)
            centred = _centred_inverse(values, vectors, self.ridge)
            return 1 / len(pooled) + (asked - kernel.mean(0)) @ centred
        return self._on_all(asked, pooled)

    def _on_all(self, asked: Tensor, pooled: Tensor) -> Tensor:
        """Least squares on all rows plus ridge·αᵀKα."""
        mean = asked.new_zeros(len(self.pooled))
        for x in pooled.split(CHUNK):
            mean += self._kernel(x).sum(0) / len(pooled)
        left = self.ridge * self._kernel(self.pooled)
        for x in pooled.split(CHUNK):
            kernel = self._kernel(x) - mean
            left += kernel.T @ kernel
        values, vectors = torch.linalg.eigh(left)
        # directions in which the kernels hardly differ say nothing, and would say anything
        inverse = torch.where(values > values.max() * 1e-12, 1 / values, 0.0)
        carried = ((asked - mean) @ vectors * inverse) @ vectors.T
        parts = [carried @ (self._kernel(x) - mean).T for x in pooled.split(CHUNK)]
        return 1 / len(pooled) + torch.cat(parts, dim=1)

    def _kernel(self, pooled: Tensor) -> Tensor:
        """[Q, D] → [Q, m]."""
        return torch.exp(-self.gamma * _squared(pooled.double(), self.pooled))


class WeightedSums:
    """Σ w·y over rows that come part by part."""

    def __init__(self, weights: Tensor, shape: Sequence[int]) -> None:
        """weights: float64 [Q, M]; shape: of a row."""
        self.weights, self.shape, self.seen = weights, tuple(shape), 0
        width = int(np.prod(self.shape))
        self.sums = torch.zeros(len(weights), width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """The next rows [c, *shape]."""
        part = self.weights[:, self.seen : self.seen + len(rows)]
        flat = rows.flatten(1)
        for at in range(0, flat.shape[1], CHUNK):
            self.sums[:, at : at + CHUNK] += part @ flat[:, at : at + CHUNK].double()
        self.seen += len(rows)

    def finish(self) -> Tensor:
        """Float32 [Q, *shape]; ControlError if a row has not come."""
        if self.seen != self.weights.shape[1]:
            raise ControlError(f"{self.seen} rows of {self.weights.shape[1]}")
        return self.sums.float().view(len(self.weights), *self.shape)


class NearestRows:
    """For each query the row nearest to it, of rows that come part by part."""

    def __init__(self, queries: Tensor, own: Iterable[int] | None = None) -> None:
        """queries: [Q, n]; own: index of a row that is not meant, for each."""
        self.queries = queries.float()
        self.squares = _squares(self.queries)
        self.own = torch.tensor([-1] * len(queries) if own is None else list(own))
        self.index = torch.full((len(queries),), -1)
        self.gap = torch.full((len(queries),), inf, dtype=torch.float64)
        self.seen = 0

    def add(self, rows: Tensor) -> None:
        """The next rows [c, n]."""
        products = (self.queries @ rows.float().T).double()
        sizes = _squares(rows)
        squared = self.squares[:, None] - 2 * products + sizes
        places = torch.arange(self.seen, self.seen + len(rows))
        squared[self.own[:, None] == places[None]] = inf
        least, found = squared.min(1)
        # products in float32 cancel where a row is all but the query: what may be closer than the
        # closest so far is worked out
        unsure = 1e-5 * (self.squares + sizes[found])
        width = rows.shape[1]
        for i in (least - unsure < self.gap.square() * width).nonzero().flatten().tolist():
            if least[i] < inf:
                difference = rows[found[i]].double() - self.queries[i].double()
                gap = difference.square().mean().sqrt()
                if gap < self.gap[i]:
                    self.index[i], self.gap[i] = places[found[i]], gap
        self.seen += len(rows)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Index [Q] and distance [Q], the root mean square difference; -1, infinite without one."""
        return self.index, self.gap


def shuffled(concept_ids: Sequence[str], seed: int) -> list[str]:
    """The ids permuted so that none keeps its place: item i is to be given the prompt of result i.

    Uniform over all such permutations. Raises ControlError on fewer than two ids or repeated ones.
    """
    if len(concept_ids) < 2:
        raise ControlError("shuffling prompts needs at least two concepts")
    if len(set(concept_ids)) < len(concept_ids):
        raise ControlError("concept ids repeat: a shuffled prompt could be the right one")
    generator = np.random.default_rng(seed)
    places = np.arange(len(concept_ids))
    order = places
    while (order == places).any():  # accepted with probability near 1/e
        order = generator.permutation(len(concept_ids))
    return [concept_ids[int(i)] for i in order]


def _centred_inverse(values: Tensor, vectors: Tensor, ridge: float) -> Tensor:
    """C with alpha = C·y: the upper left block of the inverse of [[K + ridge·I, 1], [1ᵀ, 0]]."""
    inverse = (vectors / (values.clamp_min(0) + ridge)) @ vectors.T
    row = inverse.sum(0)
    return inverse - torch.outer(row, row) / row.sum()


def _loo_squared_errors(centred: Tensor, gram: Tensor) -> Tensor:
    """Squared error [M] of predicting each row from the others, exactly and without refitting.

    y_i - f₋ᵢ(x_i) = alpha_i / C_ii (Cawley and Talbot 2006, for a model with intercept).
    """
    return ((centred @ gram) * centred).sum(1) / centred.diagonal().square()


def _squares(rows: Tensor) -> Tensor:
    """Float64 [c]: squared lengths of rows [c, n], one at a time."""
    return torch.stack([row.double().square().sum() for row in rows])


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [A, B]."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _check(pooled: Tensor, least: int) -> None:
    if pooled.dim() != 2:
        raise ControlError(f"embeddings {list(pooled.shape)} must be [M, D]")
    if len(pooled) < least:
        raise ControlError(f"{len(pooled)} training adapters, at least {least} needed")
    if not torch.isfinite(pooled).all():
        raise ControlError("training embeddings hold a value that is not finite")
