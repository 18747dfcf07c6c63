from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.metrics.distances import (
    MetricError,
    frechet_distance,
    frechet_distance_from_features,
    kid,
    l1,
    paired_bootstrap,
)


def gaussian(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, d)).astype(np.float32)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


# l1


def test_l1_of_black_and_white_is_the_full_range() -> None:
    black = np.zeros((1, 4, 4, 3), np.uint8)
    assert l1(black, np.full_like(black, 255)) == pytest.approx(2.0)


def test_l1_is_the_same_for_uint8_and_float() -> None:
    a, b = images(0), images(1)
    as_float = b / 127.5 - 1.0
    assert l1(a, as_float) == pytest.approx(l1(a, b), rel=1e-6)
    assert l1(a, b) == pytest.approx(np.abs(a.astype(float) - b).mean() / 127.5, rel=1e-6)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_l1_is_a_metric(i: int, j: int, k: int) -> None:
    a, b, c = images(i), images(j), images(k)
    assert l1(a, a) == 0.0
    assert l1(a, b) == l1(b, a)
    assert l1(a, c) <= l1(a, b) + l1(b, c) + 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        np.full((2, 5, 7, 3), 200.0),
        np.full((2, 5, 7, 3), np.nan),
        np.zeros((2, 5, 7, 3), np.int64),
        np.zeros((2, 5, 7), np.uint8),
    ],
)
def test_l1_refuses_what_is_not_an_image_in_range(bad: np.ndarray) -> None:
    with pytest.raises(MetricError):
        l1(images(0), bad)


# Fréchet distance


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize(("n", "d"), [(40, 100), (64, 64), (65, 64), (300, 24)])
def test_trace_identity_agrees_with_clean_fid(n: int, d: int) -> None:
    from cleanfid.fid import fid_from_feats

    # Correlated features of very unequal spread, as networks give them.
    mixing = gaussian(d, d, seed=9) * np.logspace(0, -2, d)
    x = gaussian(n, d, seed=1) @ mixing
    y = gaussian(n, d, seed=2, scale=1.3, shift=0.2) @ mixing
    reference = fid_from_feats(x.astype(np.float64), y.astype(np.float64))
    assert frechet_distance_from_features(x, y, min_count=2) == pytest.approx(reference, rel=1e-5)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_distance_of_known_gaussians() -> None:
    # Diagonal covariances: |difference of means|² + sum of (difference of deviations)².
    deviation_x, deviation_y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    distance = frechet_distance(
        np.zeros(3), np.diag(deviation_x**2), np.array([0.0, 3.0, 4.0]), np.diag(deviation_y**2)
    )
    assert distance == pytest.approx(25.0 + 1.0 + 6.25)


def test_features_drawn_from_known_gaussians_come_close_to_the_true_distance() -> None:
    d = 4
    distance = frechet_distance_from_features(
        gaussian(20_000, d, seed=1), gaussian(20_000, d, seed=2, scale=2.0, shift=1.0)
    )
    assert distance == pytest.approx(d * (1.0 + 1.0), rel=0.02)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 99))
def test_frechet_laws(n: int, d: int, seed: int) -> None:
    x, y = gaussian(n, d, seed), gaussian(n, d, seed + 100, scale=2.0, shift=0.5)
    distance = frechet_distance_from_features(x, y, min_count=2)
    assert distance > 0.0
    assert frechet_distance_from_features(y, x, min_count=2) == pytest.approx(distance, rel=1e-9)
    # A shift alone costs its squared length.
    moved = frechet_distance_from_features(x, x + np.float32(2.0), min_count=2)
    assert moved == pytest.approx(4.0 * d, rel=1e-4)
    assert frechet_distance_from_features(x, x, min_count=2) == pytest.approx(0.0, abs=1e-9 * d)
    order = np.random.default_rng(seed).permutation(n)
    assert frechet_distance_from_features(x[order], y, min_count=2) == pytest.approx(distance)


def test_frechet_distance_is_biased_by_n() -> None:
    """Two samples of one distribution, true distance 0: what is read falls with n."""
    read = [
        frechet_distance_from_features(gaussian(n, 64, 1), gaussian(n, 64, 2), min_count=2)
        for n in (32, 128, 512, 2048)
    ]
    assert read == sorted(read, reverse=True)
    assert read[0] > 20.0 * read[-1] > 0.0


def test_frechet_distance_refuses_few_or_unequal_counts() -> None:
    x = gaussian(2048, 3, 1)
    assert frechet_distance_from_features(x, x + 1) == pytest.approx(3.0, rel=1e-5)
    with pytest.raises(MetricError, match="2047"):
        frechet_distance_from_features(x[:2047], x[:2047])
    with pytest.raises(MetricError, match="equal n"):
        frechet_distance_from_features(x, x[:2047], min_count=2)
    with pytest.raises(MetricError):
        frechet_distance_from_features(x[:1], x[:1], min_count=0)
    x[5, 1] = np.nan
    with pytest.raises(MetricError, match="NaN"):
        frechet_distance_from_features(x, x)


# Kernel distance


@pytest.mark.parametrize(("n", "m", "size"), [(60, 60, 25), (60, 45, 45), (30, 80, 1000)])
def test_kid_is_clean_fids_for_the_same_seed(n: int, m: int, size: int) -> None:
    from cleanfid.fid import kernel_distance

    x, y = gaussian(n, 10, 1).astype(float), gaussian(m, 10, 2, shift=0.4).astype(float)
    state = np.random.get_state()
    np.random.seed(7)
    reference = kernel_distance(x, y, num_subsets=20, max_subset_size=size)
    np.random.set_state(state)
    assert kid(x, y, subsets=20, subset_size=size, seed=7) == pytest.approx(reference, rel=1e-9)


def test_kid_of_whole_sets_is_exact_in_one_pass() -> None:
    from cleanfid.fid import kernel_distance

    x, y = gaussian(40, 10, 1).astype(float), gaussian(40, 10, 2, shift=0.4).astype(float)
    assert kid(x, y) == pytest.approx(kernel_distance(x, y, num_subsets=3), rel=1e-9)
    assert kid(x, y, seed=1) == kid(x, y, seed=2)


def test_kid_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    x, y = gaussian(50, 8, 1), gaussian(50, 8, 2, shift=0.3)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first = kid(x, y, subsets=5, subset_size=20, seed=1)
    assert np.array_equal(before, np.random.get_state()[1])
    assert first == kid(x, y, subsets=5, subset_size=20, seed=1)
    assert first != kid(x, y, subsets=5, subset_size=20, seed=2)


def test_kid_is_unbiased_by_n() -> None:
    """One distribution: the mean over draws stays near 0 at any n, unlike the Fréchet distance."""
    for n in (8, 64):
        draws = [kid(gaussian(n, 16, 2 * s), gaussian(n, 16, 2 * s + 1)) for s in range(300)]
        assert abs(np.mean(draws)) < 4.0 * np.std(draws) / np.sqrt(len(draws))


def test_kid_grows_with_the_shift_and_refuses_bad_input() -> None:
    x = gaussian(100, 8, 1)
    near, far = (kid(x, gaussian(100, 8, 2, shift=s)) for s in (0.2, 1.0))
    assert 0.0 < near < far
    with pytest.raises(MetricError):
        kid(x, gaussian(100, 7, 2))
    with pytest.raises(MetricError):
        kid(x[:1], x)
    with pytest.raises(MetricError):
        kid(x, x[:50], subsets=0)


# Bootstrap


def test_bootstrap_interval_covers_the_true_mean_about_95_percent_of_the_time() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        mean, lo, hi = paired_bootstrap(random.normal(0.5, 1.0, 40), seed=trial, n=400)
        assert lo < mean < hi
        hits += lo <= 0.5 <= hi
    assert 0.89 <= hits / 300 <= 0.985


def test_bootstrap_of_equal_deltas_has_no_width_and_is_seeded() -> None:
    assert paired_bootstrap(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    deltas = gaussian(30, 1, 0)[:, 0]
    assert paired_bootstrap(deltas, seed=1) == paired_bootstrap(deltas, seed=1)
    assert paired_bootstrap(deltas, seed=1) != paired_bootstrap(deltas, seed=2)


@pytest.mark.parametrize("bad", [np.ones(1), np.ones((2, 2)), np.array([1.0, np.nan])])
def test_bootstrap_refuses_bad_deltas(bad: np.ndarray) -> None:
    with pytest.raises(MetricError):
        paired_bootstrap(bad)
