"""The control rows, against scikit-learn and brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge as ReferenceRidge
from torch import Tensor

from modeling.weights.controls import (
    BANDWIDTHS,
    LANDMARKS,
    RIDGES,
    ControlError,
    KernelRidge,
    NearestRows,
    WeightedSums,
    gram,
    landmarks_of,
    nearest_text,
    noised,
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


def fitted_to(
    pooled: Tensor,
    blocks: Tensor,
    ridges: Sequence[float] = RIDGES,
    bandwidths: Sequence[float] = BANDWIDTHS,
    landmarks: int = LANDMARKS,
) -> KernelRidge:
    chosen = landmarks_of(len(pooled), landmarks)
    return KernelRidge.choose(pooled[chosen], gram(blocks[chosen].flatten(1)), ridges, bandwidths)


def predicted(ridge: KernelRidge, queries: Tensor, pooled: Tensor, blocks: Tensor) -> Tensor:
    return summed(ridge.weights(queries, pooled), blocks)


def summed(weights: Tensor, blocks: Tensor, part: int = 7) -> Tensor:
    sums = WeightedSums(weights, blocks.shape[1:])
    for rows in blocks.split(part):
        sums.add(rows)
    return sums.finish()


FAR = torch.full((1, D), 1e6)
"""A query at which all kernels are 0, and the prediction the intercept."""


def test_nearest_text(training: tuple[Tensor, Tensor]) -> None:
    pooled, _ = training
    assert nearest_text(5 * pooled[7:9], pooled).tolist() == [7, 8]  # cosine: lengths do not matter
    query = torch.randn(1, D, generator=torch.Generator().manual_seed(1))
    similarity = (pooled @ query[0]) / pooled.norm(dim=1)
    assert nearest_text(query, pooled).tolist() == [int(similarity.argmax())]


@pytest.mark.parametrize("part", [1, 7, M])
def test_sums_of_parts_are_the_sum(training: tuple[Tensor, Tensor], part: int) -> None:
    _, blocks = training
    weights = torch.randn(3, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = torch.einsum("qm,mnb->qnb", weights, blocks.double()).float()
    torch.testing.assert_close(summed(weights, blocks, part), wanted, **AS_FLOAT32)
    assert (summed(weights, blocks, part)[:, -1, -3:] == 0).all()  # padding
    few = WeightedSums(weights, (N, B))
    few.add(blocks[:-1])
    with pytest.raises(ControlError, match=f"{M - 1} rows of {M}"):
        few.finish()


@pytest.mark.parametrize("part", [1, 7, M])
def test_the_nearest_row_of_parts(training: tuple[Tensor, Tensor], part: int) -> None:
    _, blocks = training
    rows = blocks.flatten(1)
    near = rows[[3, 3, 20]] + torch.tensor([[1e-7], [0.5], [0.0]])
    queries = torch.cat([near, torch.randn(2, N * B, generator=torch.Generator().manual_seed(3))])
    own = [-1, -1, 20, -1, -1]
    search = NearestRows(queries, own)
    for some in rows.split(part):
        search.add(some)
    index, gap = search.finish()
    gaps = (queries[:, None].double() - rows[None].double()).square().mean(2).sqrt()
    gaps[2, 20] = float("inf")
    assert index.tolist() == gaps.argmin(1).tolist() and index[:2].tolist() == [3, 3]
    torch.testing.assert_close(gap, gaps.amin(1), rtol=1e-12, atol=0)
    alone = NearestRows(queries[2:3], [0])
    alone.add(rows[:1])
    assert alone.finish()[0].tolist() == [-1] and alone.finish()[1].tolist() == [float("inf")]


def test_noise_has_the_slots_deviation_and_spares_padding() -> None:
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randn(30, 50, 100, generator=generator) * 0.01
    blocks[..., 50:] *= 100
    blocks[:, -1, -7:] = 0
    deviation = blocks.std(0, correction=0)
    found = noised(blocks[3], deviation, 0.5, seed=4)
    change = found - blocks[3]
    assert change[:, :50].std() == pytest.approx(0.005, rel=0.1)
    assert change[:, 50:].std() == pytest.approx(0.5, rel=0.1)
    assert (found[-1, -7:] == 0).all()
    assert torch.equal(found, noised(blocks[3], deviation, 0.5, seed=4))
    assert not torch.equal(found, noised(blocks[3], deviation, 0.5, seed=5))
    assert torch.equal(blocks[3], noised(blocks[3], deviation, 0.0, seed=4))


def test_ridge_agrees_with_scikit_learn(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    ours = fitted_to(pooled, blocks, ridges=[0.3], bandwidths=[0.7])
    theirs = ReferenceRidge(alpha=0.3, kernel="rbf", gamma=ours.gamma)
    intercept = torch.einsum("m,mnb->nb", ours.weights(FAR, pooled)[0], blocks.double())
    theirs.fit(pooled.double().numpy(), (blocks.double() - intercept).flatten(1).numpy())
    query = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
    expected = theirs.predict(query.double().numpy()).reshape(5, N, B) + intercept.numpy()
    found = predicted(ours, query, pooled, blocks)
    np.testing.assert_allclose(found.numpy(), expected, **AS_FLOAT32)
    weights = ours.weights(query, pooled)
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))
    # what makes the intercept the optimal one
    assert abs(theirs.dual_coef_.sum(0)).max() < 1e-9
    distance = torch.cdist(pooled.double(), pooled.double())[~torch.eye(M, dtype=torch.bool)]
    assert ours.gamma == pytest.approx(1 / (2 * (0.7 * float(distance.median())) ** 2), rel=1e-7)


def test_products_are_about_the_mean(training: tuple[Tensor, Tensor]) -> None:
    rows = training[1].flatten(1).double()
    centred = rows - rows.mean(0)
    torch.testing.assert_close(gram(training[1].flatten(1)), centred @ centred.T)


@pytest.mark.parametrize(("ridge", "bandwidth"), [(0.01, 0.5), (0.3, 1.0), (3.0, 2.0)])
def test_leave_one_out_equals_brute_force(
    training: tuple[Tensor, Tensor], ridge: float, bandwidth: float
) -> None:
    pooled, blocks = training
    fitted = fitted_to(pooled, blocks, [ridge], [bandwidth])
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
    single = [fitted_to(pooled, blocks, [r], [h]) for r in ridges for h in bandwidths]
    best = max(single, key=lambda f: f.loo_r2)
    searched = fitted_to(pooled, blocks, ridges, bandwidths)
    assert (searched.ridge, searched.gamma) == (best.ridge, best.gamma)
    assert searched.loo_r2 == pytest.approx(best.loo_r2)
    assert searched.loo_r2 > 0.1  # the text does tell something here


def test_ridge_on_landmarks(training: tuple[Tensor, Tensor]) -> None:
    """On all rows it is the same; on fewer the best sum of their kernels, by least squares."""
    pooled, blocks = training
    exact = fitted_to(pooled, blocks, [0.1], [0.7])
    query = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
    on_all = exact._on_all(exact._kernel(query), pooled)
    torch.testing.assert_close(on_all, exact.weights(query, pooled), atol=1e-6, rtol=0)
    few = fitted_to(pooled, blocks, [0.1], [0.7], landmarks=M // 2)
    assert len(few.pooled) == M // 2 and few.ridge == 0.1
    weights = few.weights(torch.cat([pooled, few.pooled.float(), FAR]), pooled)
    made = weights @ blocks.double().flatten(1)
    fit, at_landmarks, intercept = made[:M], made[M:-1], made[-1]
    # where the gradient of |y - f|² + ridge·αᵀKα by α and the intercept is 0; f = intercept + K·α
    residual = blocks.double().flatten(1) - fit
    smooth = few.ridge * (at_landmarks - intercept)
    torch.testing.assert_close(few._kernel(pooled).T @ residual, smooth, atol=1e-8, rtol=0)
    torch.testing.assert_close(residual.sum(0), torch.zeros_like(intercept), atol=1e-8, rtol=0)
    # a sum of kernels at the landmarks, and of nothing else
    kernel = few._kernel(few.pooled)
    alpha = torch.linalg.solve(kernel, at_landmarks - intercept)
    torch.testing.assert_close(few._kernel(pooled) @ alpha + intercept, fit, atol=1e-6, rtol=0)


def test_landmarks_are_drawn_once() -> None:
    assert landmarks_of(5).tolist() == list(range(5))
    drawn = landmarks_of(100, 10)
    assert len(set(drawn.tolist())) == 10 and drawn.equal(drawn.sort().values)
    assert drawn.equal(landmarks_of(100, 10)) and drawn.tolist() != list(range(10))


def test_ridge_limits(training: tuple[Tensor, Tensor]) -> None:
    pooled, blocks = training
    flat = fitted_to(pooled, blocks, [1e9], [1.0])
    mean = blocks.double().mean(0, keepdim=True).float()
    torch.testing.assert_close(predicted(flat, pooled[:1], pooled, blocks), mean, **AS_FLOAT32)
    exact = fitted_to(pooled, blocks, [1e-10], [0.5])
    found = predicted(exact, pooled, pooled, blocks)
    torch.testing.assert_close(found, blocks, rtol=1e-4, atol=1e-4)
    assert (predicted(fitted_to(pooled, blocks), pooled, pooled, blocks)[:, -1, -3:] == 0).all()
    same = pooled[:1].expand(M, D)
    same_text = fitted_to(same, blocks)
    torch.testing.assert_close(predicted(same_text, pooled[:1], same, blocks), mean, **AS_FLOAT32)
    assert same_text.loo_r2 == pytest.approx(0, abs=1e-6)
    alike = blocks[:1].expand(M, N, B)
    found = predicted(fitted_to(pooled, alike), pooled, pooled, alike)
    torch.testing.assert_close(found, alike)


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
    products = gram(blocks.flatten(1))
    for ids in ([], ["one"]):
        with pytest.raises(ControlError, match="at least two"):
            shuffled(ids, 0)
    with pytest.raises(ControlError, match="repeat"):
        shuffled(["a", "a"], 0)
    with pytest.raises(ControlError, match="at least 1"):
        nearest_text(pooled[:1], pooled[:0])
    with pytest.raises(ControlError, match="queries of shape"):
        nearest_text(pooled[:1, :3], pooled)
    with pytest.raises(ControlError, match="noise scale"):
        noised(blocks[0], blocks[0], -1.0, 0)
    with pytest.raises(ControlError, match="at least 2"):
        KernelRidge.choose(pooled[:1], products[:1, :1])
    with pytest.raises(ControlError, match=r"not finite \[m, m\]"):
        KernelRidge.choose(pooled[:3], products)
    with pytest.raises(ControlError, match=r"not finite \[m, m\]"):
        KernelRidge.choose(pooled, products * float("inf"))
    with pytest.raises(ControlError, match="positive"):
        KernelRidge.choose(pooled, products, ridges=[0.0])
    with pytest.raises(ControlError, match="embeddings hold"):
        KernelRidge.choose(pooled * torch.tensor(float("nan")), products)
    with pytest.raises(ControlError, match=r"queries of shape \[24, 2\]"):
        KernelRidge.choose(pooled, products).weights(pooled[:, :2], pooled)
