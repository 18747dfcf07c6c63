"""Art filters: shapes, values by hand, resolutions, wrong parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modeling.concepts.grammar.families import FAMILIES
from modeling.editors.avatars import ATTRIBUTES, portrait, render
from modeling.editors.filters import FILTER_KEYS, FILTERS, FilterError, apply_filter

ART = [atom for family in FAMILIES.values() if not family.needs_avatar for atom in family.atoms()]


@settings(max_examples=60, deadline=None)
@given(
    image=arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    atom=st.sampled_from(ART),
)
def test_filters_keep_shape_and_dtype(image: np.ndarray, atom: tuple[str, dict[str, str]]) -> None:
    before = image.copy()
    result = apply_filter(image, atom[1])
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(image, before)
    assert np.array_equal(result, apply_filter(image, atom[1]))


def test_every_filter_belongs_to_a_family() -> None:
    assert {atom.edit["filter"] for atom in ART} == set(FILTERS)
    assert {key for atom in ART for key in atom.edit} == FILTER_KEYS
    assert not FILTER_KEYS & set(ATTRIBUTES)


def test_filters_by_hand() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.stack([ramp] * 3, axis=2)
    negative = {"filter": "negative", "tone": "colour"}
    assert np.array_equal(apply_filter(grey, negative), 255 - grey)
    assert np.array_equal(apply_filter(apply_filter(grey, negative), negative), grey)
    duotone = apply_filter(grey, {"filter": "duotone", "dark": "navy", "light": "gold"})
    assert tuple(duotone[0, 0]) == (18, 28, 98)
    assert tuple(duotone[-1, -1]) == (222, 178, 46)
    two = apply_filter(grey, {"filter": "posterise", "strength": "extreme"})
    assert set(np.unique(two)) == {0, 255}
    flat = np.full((16, 16, 3), 90, np.uint8)
    for strength in ("slight", "moderate", "strong", "extreme"):
        assert np.array_equal(apply_filter(flat, {"filter": "blur", "strength": strength}), flat)
    assert np.array_equal(apply_filter(flat, {"hair": "red"}), flat)


def test_filters_look_the_same_at_every_resolution() -> None:
    person = portrait(11)
    small, large = render(person, 64), render(person, 128)
    # Oil and aberration round their windows to whole pixels: a looser bound holds for all.
    for family in FAMILIES.values():
        if family.needs_avatar:
            continue
        for atom in family.atoms()[::40]:
            a = apply_filter(small, atom.edit).astype(float)
            b = apply_filter(large, atom.edit).astype(float)
            b = b.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
            assert np.abs(a - b).mean() < 22, atom.text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"filter": "melt"}, "unknown filter 'melt'"),
        ({"filter": "sketch"}, "lacks the parameter 'colour'"),
        ({"filter": "sketch", "colour": "indgo"}, "unknown colour 'indgo'"),
        ({"filter": "blur", "strength": "utter"}, "strength 'utter' is none of"),
    ],
)
def test_wrong_filters_are_named(edit: dict[str, str], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        apply_filter(np.zeros((8, 8, 3), np.uint8), edit)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_filters_take_colour_pictures_only(shape: tuple[int, ...]) -> None:
    with pytest.raises(FilterError, match="uint8 image"):
        apply_filter(np.zeros(shape, np.uint8), {"filter": "negative", "tone": "colour"})
