"""The basis of gradients: inverses, the covariance it diagonalises, parts of a fit, Adam in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeling.targets.adapter_training import ConceptData, train_adapters
from modeling.targets.coordinates import FACTORS, Coordinates
from modeling.targets.lora import Adapter
from modeling.targets.recipe import Recipe
from modeling.weights.codec import BlockLayout
from modeling.weights.gradient_basis import BasisCoordinates, GradientBasis, GradientSums
from modeling.weights.grouping import CodecError
from tests.modeling.weights.small_base import SmallBase

RECIPE = Recipe(steps=5, batch=2, lr=0.01, gan_weight=0)


@pytest.fixture(scope="module")
def base() -> SmallBase:
    return SmallBase()


def gradients(layout: BlockLayout, count: int = 40, seed: int = 0) -> Tensor:
    """Random [count, N, b], larger along some directions, 0 in padding as true ones are."""
    g = torch.Generator().manual_seed(seed)
    b = layout.block_size
    mixed = torch.randn(count, layout.n_blocks, b, generator=g) @ torch.randn(b, b, generator=g)
    return mixed * layout.mask


def fitted(layout: BlockLayout, **options: Any) -> GradientBasis:
    sums = GradientSums.empty(layout)
    sums.add(gradients(layout, **options))
    return sums.finish()


def test_the_basis_diagonalises_the_gradients_it_was_fitted_on(base: SmallBase) -> None:
    g = gradients(base.layout)
    basis = fitted(base.layout)
    rotated = basis.rotate(g)
    second = torch.einsum("mnb,mnc->nbc", rotated, rotated) / len(g)
    along = second.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(second, torch.diag_embed(along), rtol=0, atol=1e-4 * along.amax())
    assert (along.diff(dim=1) <= 1e-4 * along.amax()).all()
    assert basis.count == len(g)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10)
def test_rotating_there_and_back_and_lengths(seed: int) -> None:
    base = SmallBase()
    basis = fitted(base.layout, seed=seed)
    torch.testing.assert_close(basis.restore(basis.rotate(base.blocks)), base.blocks)
    torch.testing.assert_close(basis.rotate(base.blocks).norm(), base.blocks.norm())


def test_a_fit_in_parts_is_the_fit_of_the_whole(base: SmallBase) -> None:
    g = gradients(base.layout)
    whole, parts = GradientSums.empty(base.layout), GradientSums.empty(base.layout)
    whole.add(g)
    parts.add(g[:7])
    parts.add(g[7:])
    assert parts.count == whole.count
    torch.testing.assert_close(parts.outer, whole.outer)


def test_no_gradients_or_bad_ones_are_errors(base: SmallBase) -> None:
    sums = GradientSums.empty(base.layout)
    with pytest.raises(CodecError, match="no gradients"):
        sums.finish()
    bad = gradients(base.layout)
    bad[3, 0, 0] = float("nan")
    with pytest.raises(CodecError, match="not finite"):
        sums.add(bad)
    with pytest.raises(CodecError, match="this layout has"):
        sums.add(bad[:, 1:])


def test_bytes_and_back(base: SmallBase) -> None:
    basis = fitted(base.layout)
    data = basis.to_bytes()
    back = GradientBasis.from_bytes(data, base.layout)
    assert torch.equal(back.vectors, basis.vectors)
    assert back.to_bytes() == data
    other = BlockLayout.build(base.translator.shapes, base.translator.groups, 1, 16)
    with pytest.raises(CodecError, match="the basis was fitted on layout"):
        GradientBasis.from_bytes(data, other)
    with pytest.raises(CodecError, match="not a readable basis"):
        GradientBasis.from_bytes(data[:-9], base.layout)


def concept(base: SmallBase) -> ConceptData:
    images = base.images
    return ConceptData("c", images.source[0], images.edited[0], images.text.tokens[0, :2])


def trained(base: SmallBase, coordinates: Coordinates, recipe: Recipe = RECIPE) -> Adapter:
    start = base.translator.zero_adapter()
    data = concept(base)
    (found,) = train_adapters(
        base.translator, [data], [start], recipe, None, 0, coordinates=coordinates
    )
    assert found.adapter is not None, found.error
    return found.adapter


def in_basis(base: SmallBase, basis: GradientBasis) -> BasisCoordinates:
    return BasisCoordinates(base.layout, base.normalisation, basis)


def test_coordinates_of_adapters_and_back(base: SmallBase) -> None:
    coordinates = in_basis(base, fitted(base.layout))
    adapters = base.layout.from_blocks(base.blocks)
    back = coordinates.adapters(coordinates.of(adapters))
    for key, value in adapters.items():
        torch.testing.assert_close(back[key], value, rtol=1e-4, atol=1e-5)


def test_adam_in_an_unrotated_basis_is_adam_on_normalised_weights(base: SmallBase) -> None:
    """Where every tensor has unit deviation that is Adam on the factors, up to ε."""
    eye = torch.eye(base.layout.block_size).expand(base.layout.n_blocks, -1, -1)
    plain = replace(base.normalisation, scale=torch.ones_like(base.normalisation.scale))
    basis = GradientBasis(eye, 1, base.layout.digest())
    coordinates = BasisCoordinates(base.layout, plain, basis)
    ours, theirs = trained(base, coordinates), trained(base, FACTORS)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-4)
