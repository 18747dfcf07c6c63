"""The concept grammar: what it says, and that it says each thing once."""

from __future__ import annotations

import collections
import itertools

import pytest

from modeling.concepts.grammar.colours import COLOURS, colour_rgb
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.grammar.family import CATEGORIES


def test_the_grammar_is_large_and_says_each_thing_once() -> None:
    atoms = [atom for family in FAMILIES.values() for atom in family.atoms()]
    art = [a for f in FAMILIES.values() if not f.needs_avatar for a in f.atoms()]
    assert len(atoms) >= 700
    assert len(art) >= 200
    assert len({atom.text for atom in atoms}) == len(atoms)
    assert len({frozenset(atom.edit.items()) for atom in atoms}) == len(atoms)
    assert {family.category for family in FAMILIES.values()} == set(CATEGORIES)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert not any(", " in atom.text or "{" in atom.text for atom in atoms)


def test_no_phrase_means_two_atoms() -> None:
    meanings = collections.defaultdict(set)
    for family in FAMILIES.values():
        for i in range(len(family.rows)):
            for leading in (True, False):
                for phrase in family.phrases(i, leading=leading):
                    meanings[phrase.lower()].add((family.name, i))
    assert not [phrase for phrase, refs in meanings.items() if len(refs) > 1]


def test_partners_set_disjoint_attributes() -> None:
    for a, b in itertools.combinations(FAMILIES.values(), 2):
        if a.compatible(b):
            assert not a.keys & b.keys
    art = [family for family in FAMILIES.values() if family.category == "art"]
    assert not any(a.compatible(b) for a, b in itertools.combinations(art, 2))
    assert FAMILIES["hair"].compatible(FAMILIES["background"])
    assert not FAMILIES["hair"].compatible(FAMILIES["beanie"])  # the hat hides the hair


def test_colours() -> None:
    assert colour_rgb("indigo") == COLOURS["indigo"]
    assert colour_rgb("#0a10ff") == (10, 16, 255)
    with pytest.raises(ValueError, match="unknown colour 'indgo'"):
        colour_rgb("indgo")
