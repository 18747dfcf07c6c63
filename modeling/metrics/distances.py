"""Distances between sets of images, and what may be said from them.

Curves use `l1` and `kid`; `frechet_distance_from_features` is for end points, at equal and large
n only, because its estimate is biased upwards, the more the fewer the images.
Features come from `modeling.metrics.features`; nothing here reads files or starts workers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Below this many images the Fréchet distance says more about n than about the images.
MIN_FRECHET_COUNT = 2048


class MetricError(ValueError):
    """The inputs do not allow the number asked for."""


class Interval(NamedTuple):
    """A mean with the ends of its 95 % confidence interval."""

    mean: float
    lo: float
    hi: float


def l1(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two image arrays on the scale [-1, 1].

    Args:
        a, b: same shape, any layout; each uint8 in [0, 255] or float in [-1, 1].

    Returns:
        A number in [0, 2].

    Raises:
        MetricError: shapes differ, an array is empty, or values lie outside the range.
    """
    if a.shape != b.shape or a.size == 0:
        raise MetricError(f"l1 needs two non-empty arrays of one shape, got {a.shape}, {b.shape}")
    return float(np.abs(_unit_range(a) - _unit_range(b)).mean(dtype=np.float64))


def _unit_range(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1.0
    if not np.issubdtype(images.dtype, np.floating):
        raise MetricError(f"images must be uint8 or float, got {images.dtype}")
    if not np.abs(images).max() <= 1.0 + 1e-4:  # also true for NaN
        raise MetricError(
            "float images must lie in [-1, 1]: clamp a model's output, and pass [0, 255] as uint8"
        )
    return images.astype(np.float32)


def frechet_distance(
    mean_x: np.ndarray, covariance_x: np.ndarray, mean_y: np.ndarray, covariance_y: np.ndarray
) -> float:
    """Fréchet distance of two Gaussians by clean-fid's own function (stored statistics, small d).

    Args:
        mean_x, mean_y: [d].
        covariance_x, covariance_y: [d, d].

    Cubic in d with a large constant; for features prefer `frechet_distance_from_features`.
    """
    from cleanfid.fid import frechet_distance as clean_fid

    return float(clean_fid(mean_x, covariance_x, mean_y, covariance_y))


def frechet_distance_from_features(
    x: np.ndarray, y: np.ndarray, min_count: int = MIN_FRECHET_COUNT
) -> float:
    """Fréchet distance (squared, as in FID; Heusel et al., 2017) of two sets of features.

    |mean_x - mean_y|² + Tr S_x + Tr S_y - 2 Tr (S_x S_y)^½, where the last trace is the nuclear
    norm of X Yᵀ / (n - 1) for the centred features X, Y: the eigenvalues of S_x S_y are the
    squared singular values of X Yᵀ. No d by d square root is taken; the result is exact, and
    agrees with clean-fid's.

    Args:
        x, y: [n, d], the same n for both.
        min_count: refuse a smaller n; lower it only where the bias is understood, as in a test.

    Raises:
        MetricError: shapes differ, n is below min_count, or a value is not finite.
    """
    import torch

    x, y = _features(x, y)
    if x.shape != y.shape:
        raise MetricError(
            f"the Fréchet distance is biased by n and compares only equal n: {len(x)} and {len(y)}"
        )
    n = len(x)
    if n < max(min_count, 2):
        raise MetricError(
            f"the Fréchet distance at n = {n} is mostly bias; it needs n >= {max(min_count, 2)}. "
            "Use kid or l1 for fewer images."
        )
    centred_x = torch.from_numpy(x - x.mean(0))
    centred_y = torch.from_numpy(y - y.mean(0))
    if n < x.shape[1]:
        product = centred_x @ centred_y.T
    else:  # the same singular values from a d by d product
        r_x = torch.linalg.qr(centred_x, mode="r").R
        r_y = torch.linalg.qr(centred_y, mode="r").R
        product = r_x @ r_y.T
    cross = float(torch.linalg.svdvals(product).sum())
    spread = float(centred_x.square().sum() + centred_y.square().sum())
    shift = float(np.square(x.mean(0) - y.mean(0)).sum())
    # Rounding can leave a tiny negative number for equal sets.
    return max(0.0, shift + (spread - 2.0 * cross) / (n - 1))


def kid(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Kernel distance: unbiased squared MMD, kernel (x·y / d + 1)³ (Bińkowski et al., 2018).

    Equal to clean-fid's `kernel_distance` after `numpy.random.seed(seed)`, without touching the
    global generator. Where a subset would hold all of both sets, one pass is exact and `subsets`
    and `seed` change nothing. Unbiased, so it may be slightly negative, and n may be small.

    Args:
        x, y: features [n, d] and [m, d], n, m >= 2.
        subsets: number of random subsets averaged.
        subset_size: features per subset and side, at most min(n, m) are used.
        seed: of the subsets.

    Raises:
        MetricError: shapes do not fit, or a value is not finite.
    """
    x, y = _features(x, y)
    size = min(len(x), len(y), subset_size)
    if size < 2 or subsets < 1:
        raise MetricError(
            f"kid needs at least 2 features a side and 1 subset: got {len(x)} and {len(y)} "
            f"features, subset_size {subset_size}, subsets {subsets}"
        )
    if size == len(x) == len(y):
        return _squared_mmd(x, y)
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        # The order of the two draws is clean-fid's.
        y_subset = y[random.choice(len(y), size, replace=False)]
        x_subset = x[random.choice(len(x), size, replace=False)]
        total += _squared_mmd(x_subset, y_subset)
    return total / subsets


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased for the within-set terms; clean-fid's mean over all pairs for the cross term."""
    n = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    return float(
        (within.sum() - np.trace(within)) / (n * (n - 1)) - 2.0 * _kernel(x, y).sum() / n**2
    )


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inner = x @ y.T / x.shape[1] + 1.0
    return inner * inner * inner


def _features(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise MetricError(f"features must be [n, d] and [m, d], got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MetricError("features hold NaN or infinite values")
    return x.astype(np.float64), y.astype(np.float64)


def paired_bootstrap(deltas: np.ndarray, seed: int = 0, n: int = 10_000) -> Interval:
    """Mean difference of two methods over the same concepts, with a 95 % bootstrap interval.

    The concept is the unit that is resampled: images and seeds of one concept are not
    independent, so average them first.

    Args:
        deltas: [number of concepts], method minus control for each concept.
        seed: of the resampling.
        n: number of resamples.

    Raises:
        MetricError: fewer than 2 concepts, a value that is not finite, or n < 1.
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    if deltas.ndim != 1 or len(deltas) < 2 or n < 1 or not np.isfinite(deltas).all():
        raise MetricError(
            f"paired_bootstrap needs finite deltas of 2 or more concepts and n >= 1, "
            f"got shape {deltas.shape}, n = {n}"
        )
    random = np.random.default_rng(seed)
    means = deltas[random.integers(0, len(deltas), (n, len(deltas)))].mean(1)
    lo, hi = np.percentile(means, [2.5, 97.5])
    return Interval(float(deltas.mean()), float(lo), float(hi))
