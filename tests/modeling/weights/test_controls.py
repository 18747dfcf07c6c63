"""The control rows, against scikit-learn and brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as ReferenceRidge
from torch import Tensor

from modeling.weights.controls import (
    ControlError,
    KernelRidge,
    mean_adapter,
    nearest_text,
    noised_nearest,
    shuffled,
)

M, D, N, B = 24, 6, 4, 8
AS_FLOAT32 = {"rtol": 1e-6, "atol": 1e-6}
"""What is worked out in float64 and rounded once: 8 roundings."""


@pytest.fixture
def training() -> tuple[Tensor, Tensor]:
    """Blocks that are a smooth function of the text plus noise; the last 3 slots are padding."""
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(M, D, generator=generator)
    blocks = torch.sin(pooled @ torch.randn(D, N * B, generator=generator)) + 3
    blocks += 0.2 * torch.randn(M, N * B, generator=generator)
    blocks[:, -3:] = 0
    return pooled, blocks.view(M, N, B)


def test_mean_and_nearest(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    blocks = blocks.double()
    torch.testing.assert_close(mean_adapter(blocks), blocks.sum(0) / M)
    found, index = nearest_text(5 * pooled[7], pooled, blocks)  # cosine: length does not matter
    assert index == 7 and torch.equal(found, blocks[7])
    query = torch.randn(D, generator=torch.Generator().manual_seed(1))
    similarity = (pooled @ query) / pooled.norm(dim=1)
    assert nearest_text(query, pooled, blocks)[1] == int(similarity.argmax())


def test_noise_has_the_slots_deviation_and_spares_padding() -> None:
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randn(30, 50, 100, generator=generator) * 0.01
    blocks[..., 50:] *= 100
    blocks[:, -1, -7:] = 0
    pooled = torch.randn(30, D, generator=generator)
    clean, index = nearest_text(pooled[3], pooled, blocks)
    noised, same = noised_nearest(pooled[3], pooled, blocks, 0.5, seed=4)
    assert same == index == 3
    change = noised - clean
    assert change[:, :50].std() == pytest.approx(0.005, rel=0.1)
    assert change[:, 50:].std() == pytest.approx(0.5, rel=0.1)
    assert (noised[-1, -7:] == 0).all()
    assert torch.equal(noised, noised_nearest(pooled[3], pooled, blocks, 0.5, seed=4)[0])
    assert not torch.equal(noised, noised_nearest(pooled[3], pooled, blocks, 0.5, seed=5)[0])
    assert torch.equal(clean, noised_nearest(pooled[3], pooled, blocks, 0.0, seed=4)[0])


def test_ridge_agrees_with_scikit_learn(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    ours = KernelRidge.fit(pooled, blocks, ridges=[0.3], bandwidths=[0.7])
    theirs = ReferenceRidge(alpha=0.3, kernel="rbf", gamma=ours.gamma)
    targets = (blocks.double() - ours.intercept).flatten(1).numpy()
    theirs.fit(pooled.double().numpy(), targets)
    query = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
    expected = theirs.predict(query.double().numpy()).reshape(5, N, B) + ours.intercept.numpy()
    np.testing.assert_allclose(ours.predict(query).numpy(), expected, **AS_FLOAT32)
    np.testing.assert_allclose(ours.predict(query[0]).numpy(), expected[0], **AS_FLOAT32)
    # what makes the intercept the optimal one
    assert ours.alpha.sum(0).abs().max() < 1e-9
    distance = torch.cdist(pooled.double(), pooled.double())[~torch.eye(M, dtype=torch.bool)]
    assert ours.gamma == pytest.approx(1 / (2 * (0.7 * float(distance.median())) ** 2), rel=1e-7)


@pytest.mark.parametrize(("ridge", "bandwidth"), [(0.01, 0.5), (0.3, 1.0), (3.0, 2.0)])
def test_leave_one_out_equals_brute_force(
    training: tuple[Tensor, Tensor], ridge: float, bandwidth: float
) -> None:
    pooled, blocks = training
    fitted = KernelRidge.fit(pooled, blocks, [ridge], [bandwidth])
    error = baseline = 0.0
    for i in range(M):
        rest = [j for j in range(M) if j != i]
        # the median distance, the unit of the bandwidth, must not move with the held-out row
        x, y = pooled[rest].double(), blocks[rest].double().flatten(1)
        kernel = torch.exp(-fitted.gamma * torch.cdist(x, x).square())
        system = torch.zeros(M, M, dtype=torch.float64)
        system[:-1, :-1] = kernel + ridge * torch.eye(M - 1, dtype=torch.float64)
        system[-1, :-1] = system[:-1, -1] = 1
        solution = torch.linalg.solve(system, torch.cat([y, torch.zeros(1, N * B)]))
        row = torch.exp(-fitted.gamma * (x - pooled[i]).square().sum(1))
        predicted = row @ solution[:-1] + solution[-1]
        error += float((predicted - blocks[i].flatten()).square().sum())
        baseline += float((y.mean(0) - blocks[i].flatten()).square().sum())
    assert fitted.loo_r2 == pytest.approx(1 - error / baseline, rel=1e-9)


def test_the_search_takes_the_best_of_the_grid(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    ridges, bandwidths = [0.01, 0.3, 3.0], [0.5, 2.0]
    single = [KernelRidge.fit(pooled, blocks, [r], [h]) for r in ridges for h in bandwidths]
    best = max(single, key=lambda f: f.loo_r2)
    searched = KernelRidge.fit(pooled, blocks, ridges, bandwidths)
    assert (searched.ridge, searched.gamma) == (best.ridge, best.gamma)
    assert searched.loo_r2 == pytest.approx(best.loo_r2)
    assert searched.loo_r2 > 0.1  # the text does tell something here


def test_ridge_on_landmarks(training: tuple[Tensor, Tensor]) -> None:
    """On all rows it is the same; on fewer the best sum of their kernels, by least squares."""
    pooled, blocks = training
    exact = KernelRidge.fit(pooled, blocks, [0.1], [0.7])
    all_rows = exact._on_all(pooled, blocks)
    torch.testing.assert_close(all_rows.predict(pooled), exact.predict(pooled), atol=1e-5, rtol=0)
    few = KernelRidge.fit(pooled, blocks, [0.1], [0.7], landmarks=M // 2)
    assert len(few.pooled) == M // 2 and few.ridge == 0.1

    def objective(alpha: Tensor, intercept: Tensor) -> float:
        fit = blocks.double() - intercept - torch.einsum("qm,mnb->qnb", few._kernel(pooled), alpha)
        smooth = torch.einsum("mnb,mk,knb->", alpha, few._kernel(few.pooled), alpha)
        return float(fit.square().sum() + few.ridge * smooth)

    best = objective(few.alpha, few.intercept)
    torch.manual_seed(0)
    for scale in (1e-2, 1e-3):
        for _ in range(5):
            near = few.alpha + scale * torch.randn_like(few.alpha)
            assert objective(near, few.intercept) > best
            moved = few.intercept + scale * torch.randn_like(few.intercept)
            assert objective(few.alpha, moved) > best
    # the rows that are no landmarks count, too
    subset = KernelRidge.fit(few.pooled.float(), blocks[_rows(few.pooled, pooled)], [0.1], [0.7])
    assert objective(subset.alpha, subset.intercept) > best


def _rows(some: Tensor, of: Tensor) -> Tensor:
    return torch.cdist(some, of.double()).argmin(1)


def test_ridge_limits(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    flat = KernelRidge.fit(pooled, blocks, [1e9], [1.0])
    mean = mean_adapter(blocks.double()).float()
    torch.testing.assert_close(flat.predict(pooled[0]), mean, **AS_FLOAT32)
    exact = KernelRidge.fit(pooled, blocks, [1e-10], [0.5])
    torch.testing.assert_close(exact.predict(pooled), blocks, rtol=1e-4, atol=1e-4)
    assert (KernelRidge.fit(pooled, blocks).predict(pooled)[:, -1, -3:] == 0).all()
    same_text = KernelRidge.fit(pooled[:1].expand(M, D), blocks)
    torch.testing.assert_close(same_text.predict(pooled[0]), mean, **AS_FLOAT32)
    assert same_text.loo_r2 == pytest.approx(0, abs=1e-6)
    constant = KernelRidge.fit(pooled, blocks[:1].expand(M, N, B))
    torch.testing.assert_close(constant.predict(pooled), blocks[:1].expand(M, N, B))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32))
def test_shuffled_is_a_derangement(count: int, seed: int) -> None:
    ids = [f"concept-{i}" for i in range(count)]
    result = shuffled(ids, seed)
    assert sorted(result) == sorted(ids) and all(a != b for a, b in zip(ids, result, strict=True))
    assert result == shuffled(ids, seed)


def test_shuffled_is_uniform() -> None:
    counts = Counter(tuple(shuffled("abcd", seed)) for seed in range(1800))
    assert len(counts) == 9  # all derangements of four
    assert min(counts.values()) > 140 and max(counts.values()) < 260


def test_bad_input(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    for ids in ([], ["one"]):
        with pytest.raises(ControlError, match="at least two"):
            shuffled(ids, 0)
    with pytest.raises(ControlError, match="repeat"):
        shuffled(["a", "a"], 0)
    with pytest.raises(ControlError, match="no training adapters"):
        mean_adapter(blocks[:0])
    with pytest.raises(ControlError, match="at least 1"):
        nearest_text(pooled[0], pooled[:0], blocks[:0])
    with pytest.raises(ControlError, match="query of shape"):
        nearest_text(pooled[0, :3], pooled, blocks)
    with pytest.raises(ControlError, match="noise scale"):
        noised_nearest(pooled[0], pooled, blocks, -1.0, 0)
    with pytest.raises(ControlError, match="at least 2"):
        KernelRidge.fit(pooled[:1], blocks[:1])
    with pytest.raises(ControlError, match="must be"):
        KernelRidge.fit(pooled[:3], blocks)
    with pytest.raises(ControlError, match="positive"):
        KernelRidge.fit(pooled, blocks, ridges=[0.0])
    with pytest.raises(ControlError, match="embeddings hold"):
        KernelRidge.fit(pooled * torch.tensor(float("nan")), blocks)
    with pytest.raises(ControlError, match="fitted on embeddings of 6"):
        KernelRidge.fit(pooled, blocks).predict(pooled[:, :2])
