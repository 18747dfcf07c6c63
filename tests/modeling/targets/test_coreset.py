"""k-means subsets: one point per cluster, always distinct, always k."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.targets.coreset import CoresetError, image_coreset, kmeans


def clusters(seed: int, count: int = 6, each: int = 15) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = 100 * np.eye(count)
    labels = generator.permutation(np.repeat(np.arange(count), each))
    return centres[labels] + generator.normal(size=(len(labels), count)), labels


@pytest.mark.parametrize("seed", range(4))
def test_one_point_of_each_separate_cluster_and_the_central_one(seed: int) -> None:
    points, labels = clusters(seed)
    picked = kmeans(points, 6, seed)
    assert sorted(labels[picked]) == list(range(6))
    for index in picked:
        members = np.flatnonzero(labels == labels[index])
        distance = np.linalg.norm(points[members] - points[members].mean(0), axis=1)
        assert index == members[distance.argmin()]


def test_deterministic_and_from_tensors() -> None:
    points = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    first = kmeans(points, 9, seed=3)
    assert first == kmeans(points, 9, seed=3) == kmeans(torch.from_numpy(points), 9, seed=3)
    assert first != kmeans(points, 9, seed=4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20),
    st.integers(1, 24),
)
def test_always_k_distinct_indices_even_of_equal_points(
    points: list[tuple[int, int]], k: int
) -> None:
    picked = kmeans(points, k, seed=0)
    assert picked == sorted(set(picked)) and len(picked) == min(k, len(points))
    assert all(type(i) is int and 0 <= i < len(points) for i in picked)
    # a duplicate is taken only once every distinct point is
    distinct = len(set(points))
    if k >= distinct:
        assert {points[i] for i in picked} == set(points)


def test_k_of_all_or_more_is_everything() -> None:
    assert kmeans(np.eye(3), 3, 0) == kmeans(np.eye(3), 7, 0) == [0, 1, 2]


def test_bad_input() -> None:
    with pytest.raises(CoresetError, match=r"\[M, D\]"):
        kmeans(np.zeros(3), 1, 0)
    with pytest.raises(CoresetError, match="1 or more"):
        kmeans(np.zeros((3, 2)), 0, 0)
    with pytest.raises(CoresetError, match="point 1 are not finite"):
        kmeans([[0.0, 1.0], [np.nan, 0.0]], 1, 0)


def test_image_coreset_has_one_of_each_kind() -> None:
    g = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 256, (4, 3, 16, 16), generator=g)
    order = torch.arange(4).repeat(5)
    noise = torch.randint(-3, 4, (20, 3, 16, 16), generator=g)
    source = (kinds[order] + noise).clamp(0, 255).to(torch.uint8)
    picked = image_coreset(source, 4, seed=0)
    assert sorted(order[picked].tolist()) == [0, 1, 2, 3]
    assert image_coreset(source, 4, seed=0) == picked
    assert image_coreset(source, 99, seed=0) == list(range(20))
    assert len(image_coreset(source[..., :4, :4], 3, seed=0)) == 3  # smaller than a thumbnail
