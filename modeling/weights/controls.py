"""Cheap predictions of an adapter that a weight generator has to beat to be worth its training.

Published weight generators mostly replicate or average their training set, so every table carries
these rows. All take the training adapters as blocks [M, N, b], one row per concept, with their
pooled text embeddings [M, D], and keep padding exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
"""Rows whose kernel with the landmarks is held at once."""


class ControlError(ValueError):
    """Training adapters, embeddings or ids from which a control cannot be made."""


def mean_adapter(blocks: Tensor) -> Tensor:
    """Mean of the training adapters: [M, N, b] → [N, b]."""
    if blocks.shape[0] == 0:
        raise ControlError("no training adapters to take the mean of")
    return blocks.mean(0)


def nearest_text(query: Tensor, pooled: Tensor, blocks: Tensor) -> tuple[Tensor, int]:
    """The training adapter with the most similar prompt (cosine), and its index.

    query [D], pooled [M, D], blocks [M, N, b] → ([N, b], index).
    """
    _check_training(pooled, blocks, least=1)
    if query.shape != pooled.shape[1:]:
        raise ControlError(f"query of shape {list(query.shape)}, embeddings {list(pooled.shape)}")
    index = int(F.cosine_similarity(query.double()[None], pooled.double()).argmax())
    return blocks[index].clone(), index


def noised_nearest(
    query: Tensor, pooled: Tensor, blocks: Tensor, scale: float, seed: int
) -> tuple[Tensor, int]:
    """`nearest_text` plus Gaussian noise of `scale` times each slot's training deviation."""
    if not 0 <= scale < inf:
        raise ControlError(f"noise scale {scale!r} is not a finite number of 0 or more")
    found, index = nearest_text(query, pooled, blocks)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(found.shape, generator=generator).to(found)
    return found + scale * blocks.std(0, correction=0) * noise, index


@dataclass(frozen=True)
class KernelRidge:
    """RBF kernel ridge regression from pooled text to blocks, with an unpenalised intercept.

    Dual form: K = exp(-gamma·|x - x'|²), G = K + ridge·I, f(x) = intercept + k(x)·alpha. Far from
    all training prompts it returns the intercept, a weighted mean adapter.

    With more rows than landmarks the function is a sum of kernels at m of them, still fitted to all
    rows (subset of regressors; Quiñonero-Candela and Rasmussen 2005, Sec. 5.1).
    """

    pooled: Tensor
    """Float64 [m, D]; m = M unless there are more rows than landmarks."""
    alpha: Tensor
    """Float64 [m, N, b]."""
    intercept: Tensor
    """Float64 [N, b]."""
    gamma: float
    ridge: float
    loo_r2: float
    """1 - squared leave-one-out error ÷ that of the mean of the others; at most 1, may be < 0. Of
    the landmarks, where not all rows are."""

    @classmethod
    def fit(
        cls,
        pooled: Tensor,
        blocks: Tensor,
        ridges: Sequence[float] = RIDGES,
        bandwidths: Sequence[float] = BANDWIDTHS,
        landmarks: int = LANDMARKS,
    ) -> KernelRidge:
        """Fit to pooled [M, D] and blocks [M, N, b], choosing ridge and bandwidth by leave-one-out.

        `bandwidths` are in units of the median distance between prompts:
        gamma = 1 / (2·(bandwidth·median)²). The choice minimises squared error over all slots, so
        pass *normalised* blocks, or tensors of large deviation decide alone. Repeated prompts
        (several checkpoints, or one text twice) would leak across the folds: one row per concept.
        Of more rows than `landmarks`, as many drawn ones choose, and carry the sum.
        Raises ControlError on fewer than two rows, non-finite values or a non-positive grid.
        """
        _check_training(pooled, blocks, least=2)
        if not ridges or not bandwidths or min(*ridges, *bandwidths) <= 0:
            raise ControlError("ridges and bandwidths must be non-empty and positive")
        if len(pooled) > landmarks:
            draw = torch.randperm(len(pooled), generator=torch.Generator().manual_seed(0))
            chosen = draw[:landmarks].sort().values.to(pooled.device)
            few = cls.fit(pooled[chosen], blocks[chosen], ridges, bandwidths, landmarks)
            return few._on_all(pooled, blocks)
        x, y = pooled.double(), blocks.double().flatten(1)
        count = len(x)
        mean = y.mean(0)
        # errors need the targets only through their Gram matrix: the search costs M³, not M²·N·b
        gram = (y - mean) @ (y - mean).T
        squared = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        median = float(squared[~torch.eye(count, dtype=torch.bool, device=x.device)].median())
        unit = median or 1.0  # all prompts equal: every bandwidth gives the same constant kernel
        best, choice = inf, (0.0, 0.0)
        for bandwidth in bandwidths:
            gamma = 1 / (2 * bandwidth**2 * unit)
            values, vectors = torch.linalg.eigh(torch.exp(-gamma * squared))
            for ridge in ridges:
                centred = _centred_inverse(values, vectors, ridge)
                error = float(_loo_squared_errors(centred, gram).sum())
                if error < best:
                    best, choice = error, (gamma, ridge)
        gamma, ridge = choice
        values, vectors = torch.linalg.eigh(torch.exp(-gamma * squared))
        alpha = _centred_inverse(values, vectors, ridge) @ (y - mean)
        # (K + ridge·I)·alpha + intercept = y, averaged over the rows; alpha's rows sum to 0
        kernel_mean = torch.exp(-gamma * squared).mean(0)
        intercept = mean - kernel_mean @ alpha
        baseline = float(gram.trace()) * (count / (count - 1)) ** 2
        r2 = 1 - best / baseline if baseline > 0 else 1.0
        shape = blocks.shape[1:]
        return cls(x, alpha.view(count, *shape), intercept.view(shape), gamma, ridge, r2)

    def _on_all(self, pooled: Tensor, blocks: Tensor) -> KernelRidge:
        """With the same kernels and ridge, fitted to all rows: least squares plus ridge·αᵀKα."""
        shape = self.intercept.shape
        m, width = len(self.pooled), self.intercept.numel()
        # sums first, so that rows are centred without a second copy of them
        places = range(0, len(pooled), CHUNK)
        kernel_sum = pooled.new_zeros(m, dtype=torch.float64)
        sums = kernel_sum.new_zeros(width)
        for at in places:
            kernel_sum += self._kernel(pooled[at : at + CHUNK]).sum(0)
            sums += blocks[at : at + CHUNK].double().flatten(1).sum(0)
        k_mean, y_mean = kernel_sum / len(pooled), sums / len(pooled)
        left = kernel_sum.new_zeros(m, m)
        right = kernel_sum.new_zeros(m, width)
        for at in places:
            kernel = self._kernel(pooled[at : at + CHUNK]) - k_mean
            left += kernel.T @ kernel
            right += kernel.T @ (blocks[at : at + CHUNK].double().flatten(1) - y_mean)
        left += self.ridge * self._kernel(self.pooled)
        values, vectors = torch.linalg.eigh(left)
        # directions in which the kernels hardly differ say nothing, and would say anything
        kept = values > values.max() * 1e-12
        inverse = torch.where(kept, 1 / values, 0.0)
        alpha = vectors @ (inverse[:, None] * (vectors.T @ right))
        intercept = y_mean - k_mean @ alpha
        return replace(self, alpha=alpha.view(m, *shape), intercept=intercept.view(shape))

    def _kernel(self, pooled: Tensor) -> Tensor:
        """[Q, D] → [Q, m]."""
        x = pooled.double()
        squared = torch.cdist(x, self.pooled, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.exp(-self.gamma * squared)

    def predict(self, query: Tensor) -> Tensor:
        """query [D] or [Q, D] → float32 [N, b] or [Q, N, b]."""
        if query.shape[-1:] != self.pooled.shape[1:] or query.dim() > 2:
            raise ControlError(
                f"query of shape {list(query.shape)},"
                f" fitted on embeddings of {self.pooled.shape[1]}"
            )
        kernel = self._kernel(query.reshape(-1, self.pooled.shape[1]))
        out = torch.einsum("qm,mnb->qnb", kernel, self.alpha) + self.intercept
        return out.float().reshape(*query.shape[:-1], *self.intercept.shape)


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


def _check_training(pooled: Tensor, blocks: Tensor, least: int) -> None:
    if pooled.dim() != 2 or blocks.dim() != 3 or len(pooled) != len(blocks):
        raise ControlError(
            f"embeddings {list(pooled.shape)} and blocks {list(blocks.shape)}"
            " must be [M, D] and [M, N, b]"
        )
    if len(pooled) < least:
        raise ControlError(f"{len(pooled)} training adapters, at least {least} needed")
    for name, values in (("embeddings", pooled), ("blocks", blocks)):
        if not torch.isfinite(values).all():
            raise ControlError(f"training {name} hold a value that is not finite")
