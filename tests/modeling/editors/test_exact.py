"""The exact editors, on every family of the grammar."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from modeling.concepts.concept import Concept, concept_id
from modeling.concepts.grammar.families import FAMILIES
from modeling.editors.avatars import portrait, render
from modeling.editors.filters import apply_filter
from modeling.editors.interface import EditError, Source
from modeling.editors.registry import make_editor
from modeling.editors.sources import avatar_sources


def concept(edit: Mapping[str, str], text: str = "a test") -> Concept:
    return Concept(concept_id(text), text, "art", ("hair",), "train", edit=dict(edit))


def test_every_family_changes_the_picture_visibly() -> None:
    editor = make_editor("avatar")
    sources = list(avatar_sources(3, 32, first_seed=50))
    for family in FAMILIES.values():
        atoms = family.atoms()
        for atom in atoms[:: max(1, len(atoms) // 4)]:
            results = [editor.draw(source, concept(atom.edit)) for source in sources]
            assert all(r.image.shape == (32, 32, 3) for r in results)
            assert max(r.scores["change"] for r in results) > 0.0015, atom.text


def test_every_atom_names_known_values() -> None:
    """All atoms of a few portraits' worth: no unknown variant, colour or parameter."""
    person, picture = portrait(1), render(portrait(1), 16)
    for family in FAMILIES.values():
        atoms = family.atoms()
        # Coloured families differ in a colour only: their colours are checked by its name.
        step = 1 if len(atoms) < 38 else 9
        for atom in atoms[::step]:
            if family.needs_avatar:
                render(person, 16, atom.edit)
            else:
                apply_filter(picture, atom.edit)


def test_concepts_of_one_family_differ() -> None:
    editor = make_editor("avatar")
    source = next(avatar_sources(1, 32, first_seed=3))
    for family in FAMILIES.values():
        if family.needs_avatar and family.name not in ("hair", "hairstyle", "persona", "horns"):
            continue
        pictures = [editor.draw(source, concept(atom.edit)).image for atom in family.atoms()]
        assert len({p.tobytes() for p in pictures}) == len(pictures), family.name


def test_avatar_editor_applies_attributes_then_the_filter() -> None:
    (source,) = avatar_sources(1, 32, first_seed=9)
    both = {"hair": "indigo", "filter": "negative", "tone": "colour"}
    result = make_editor("avatar").draw(source, concept(both))
    assert np.array_equal(result.image, 255 - render(portrait(9), 32, {"hair": "indigo"}))
    assert result.scores["exactness"] == 1.0


def test_filter_editor_edits_any_picture() -> None:
    editor = make_editor("filter")
    photo = Source("photo", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    edit = {"filter": "tone", "tone": "noir"}
    assert np.array_equal(editor.draw(photo, concept(edit)).image, apply_filter(photo.image, edit))
    assert editor.supports("sketch")
    assert not editor.supports("hair")
    assert not editor.supports("nonsense")
    with pytest.raises(EditError, match=r"'filter' cannot do .*\['hair'\]"):
        editor.draw(photo, concept({"hair": "red"}))
    with pytest.raises(EditError, match="no drawn portrait"):
        make_editor("avatar").draw(photo, concept(edit))
    with pytest.raises(EditError, match="no exact edit"):
        editor.draw(photo, concept({}))
