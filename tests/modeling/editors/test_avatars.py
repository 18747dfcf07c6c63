"""Portraits and their edits, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from modeling.editors.avatars import ATTRIBUTES, AvatarError, portrait, render


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != b).any(axis=2)


def test_portraits_are_deterministic_and_distinct() -> None:
    pictures = [render(portrait(seed), 32) for seed in range(40)]
    again = [render(portrait(seed), 32) for seed in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))
    assert len({p.tobytes() for p in pictures}) == 40
    assert portrait(123).attributes["skin"] == "#d08b5b"  # a seed is for ever


def test_replacing_an_attribute_by_itself_changes_nothing() -> None:
    for seed in range(6):
        person = portrait(seed)
        same = {key: person.attributes[key] for key in ATTRIBUTES}
        assert np.array_equal(render(person, 48), render(person, 48, same))


def test_edits_change_their_own_pixels_only() -> None:
    for seed in range(12):
        person = portrait(seed)
        source = render(person, 64)
        clothes = changed(source, render(person, 64, {"clothes_colour": "lime"}))
        assert clothes.any()
        assert not clothes[:40].any()
        short = {"top": "shortFlat"}
        hair = changed(render(person, 64, short), render(person, 64, {**short, "hair": "indigo"}))
        assert hair.sum() > 60
        assert not hair[32:].any()
        background = changed(source, render(person, 64, {"background": "navy"}))
        skin = changed(source, render(person, 64, {"skin": "teal"}))
        # Only antialiased pixels on the outline of the person belong to both.
        assert (background & skin).sum() < 0.1 * background.sum()


def test_hair_and_beard_are_separate() -> None:
    person = portrait(4)
    bearded = {"beard": "beardMajestic", "top": "shortFlat", "beard_colour": "brown"}
    difference = changed(
        render(person, 64, bearded), render(person, 64, {**bearded, "hair": "indigo"})
    )
    assert difference[:30].any()
    assert not difference[34:].any()


def test_independent_edits_do_not_meet() -> None:
    """Where only one of two edits changes the picture, both together give that one's pixels."""
    person = portrait(7)
    source = render(person, 64)
    a = render(person, 64, {"clothes_colour": "crimson"})
    b = render(person, 64, {"background": "teal"})
    both = render(person, 64, {"clothes_colour": "crimson", "background": "teal"})
    only_a = changed(source, a) & ~changed(source, b)
    only_b = changed(source, b) & ~changed(source, a)
    assert np.array_equal(both[only_a], a[only_a])
    assert np.array_equal(both[only_b], b[only_b])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"nose": "long"}, "unknown attribute 'nose'"),
        ({"top": "pointed"}, "unknown top 'pointed'"),
        ({"hair": "indgo"}, "hair: unknown colour 'indgo'"),
        ({"crown": "shiny"}, "crown: unknown colour"),
        ({"eyes": "none"}, "unknown eyes 'none'"),
        ({"view": "0 0 1 1"}, "unknown attribute 'view'"),
    ],
)
def test_wrong_attributes_are_named(edit: dict[str, str], message: str) -> None:
    with pytest.raises(AvatarError, match=message):
        render(portrait(0), 32, edit)


def test_wrong_portraits() -> None:
    with pytest.raises(AvatarError, match="negative"):
        portrait(-1)
    with pytest.raises(AvatarError, match="at least 8"):
        render(portrait(0), 4)


@pytest.mark.parametrize("seed", [79, 159, 221])
def test_portraits_whose_view_rounds_up_have_the_size_asked_for(seed: int) -> None:
    assert render(portrait(seed), 32).shape == (32, 32, 3)
