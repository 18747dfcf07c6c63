"""Representative subsets by k-means, as E²GAN picks its base concepts and its training images."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch


class CoresetError(ValueError):
    """Features or a size from which no subset can be picked."""


def kmeans(features: npt.ArrayLike, k: int, seed: int, iterations: int = 100) -> list[int]:
    """Indices, sorted and distinct, of the point nearest to the centre of each of k clusters.

    features [M, D], finite: text embeddings of concepts, or pixel or feature vectors of images.
    Returns exactly k indices, or all M if k ≥ M. Equal points count as different candidates: where
    fewer than k clusters can be told apart, the first unpicked points fill up. One thread, so the
    result does not depend on the number of cores. Raises CoresetError on bad input.
    """
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise CoresetError(f"features must be [M, D] with D of 1 or more, not {list(points.shape)}")
    if k < 1 or iterations < 1:
        raise CoresetError(f"k ({k}) and iterations ({iterations}) must be 1 or more")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise CoresetError(f"features of point {row} are not finite")
    if k >= len(points):
        return list(range(len(points)))

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model = KMeans(n_clusters=k, n_init=1, max_iter=iterations, random_state=seed)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than k: filled below
        labels = model.fit_predict(points)
    distance = np.square(points - model.cluster_centers_[labels]).sum(axis=1)
    # the nearest *member*, because one point can be the nearest of all to two centres
    picked = {int(min(np.flatnonzero(labels == c), key=distance.__getitem__)) for c in set(labels)}
    spare = (i for i in range(len(points)) if i not in picked)
    missing = k - len(picked)
    return sorted(picked | {next(spare) for _ in range(missing)})


def image_coreset(source: torch.Tensor, count: int, seed: int) -> list[int]:
    """Indices of `count` images of uint8 [M, 3, H, W], all if M is less, as E²GAN picks its images.

    The images nearest to the k-means centres of 8×8 thumbnails.
    """
    small = torch.nn.functional.adaptive_avg_pool2d(source.float(), 8).flatten(1)
    return kmeans(small.cpu().numpy(), min(count, len(source)), seed)
