"""A family: atoms that differ in one or two words, and the ways of saying them.

Atoms of one family ("indigo hair", "teal hair") are so alike that an unseen one lies between seen
ones for a text encoder and for the pictures alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from modeling.concepts.grammar.colours import CORE_COLOURS

CATEGORIES = ("facial", "characteristic", "art")  # also the order of the parts in a combination


class Atom(NamedTuple):
    """One edit with its text, e.g. ("indigo hair", {"hair": "indigo"})."""

    text: str
    edit: dict[str, str]


class Row(NamedTuple):
    """Words for the slots of a family's templates, and the edit that they name."""

    slots: dict[str, str]
    edit: dict[str, str]


@dataclass(frozen=True)
class Family:
    """Atoms that share a meaning and differ in a word or two.

    templates: noun phrases with slots; the first gives an atom's text, the others paraphrase it.
    join: how the phrase is attached to other text ("on {}" makes "on a coral background").
    wholes: sentences that paraphrase an atom only where it leads.
    rows: the slot values and the edit of each atom.
    hides: attributes that the edit makes invisible; families that set them are no partners.
    """

    name: str
    category: str
    needs_avatar: bool
    templates: tuple[str, ...]
    join: str
    rows: tuple[Row, ...]
    wholes: tuple[str, ...] = ()
    hides: frozenset[str] = frozenset()

    @cached_property
    def keys(self) -> frozenset[str]:
        """The attributes that some atom of the family sets."""
        return frozenset(key for row in self.rows for key in row.edit)

    def atoms(self) -> list[Atom]:
        """Return every atom in its fixed order."""
        return [Atom(_say(self.templates[0], row.slots), dict(row.edit)) for row in self.rows]

    def phrases(self, index: int, *, leading: bool) -> list[str]:
        """Return the ways of saying atom `index`, the atom's own text first.

        leading: at the head of a text; otherwise attached to what stands before it.
        """
        slots = self.rows[index].slots
        nouns = [_say(template, slots) for template in self.templates]
        joined = [_say(self.join, {"": noun}) for noun in nouns]
        if not leading:
            return joined
        wholes = [_say(template, slots) for template in self.wholes]
        leads = [f"{lead} {text}" for lead in _LEADS for text in joined]
        return list(dict.fromkeys([*nouns, *wholes, *leads]))

    def compatible(self, other: Family) -> bool:
        """Tell whether atoms of both families can be applied to one picture independently."""
        return not (self.keys & (other.keys | other.hides) or other.keys & (self.keys | self.hides))


_LEADS = ("a portrait", "the same person", "a picture of someone")


def _say(template: str, slots: Mapping[str, str]) -> str:
    text = template
    for slot, value in slots.items():
        text = text.replace("{" + slot + "}", value)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def make_family(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    rows: list[tuple[dict[str, str], dict[str, str]]],
    wholes: tuple[str, ...] = (),
    hides: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        category=category,
        needs_avatar=category != "art",
        templates=templates,
        join=join,
        rows=tuple(Row(dict(slots), dict(edit)) for slots, edit in rows),
        wholes=wholes,
        hides=frozenset(hides),
    )


def coloured(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    edit: dict[str, str],
    colours: tuple[str, ...] = tuple(CORE_COLOURS),
    wholes: tuple[str, ...] = (),
    hides: tuple[str, ...] = (),
) -> Family:
    """One atom per colour; "{colour}" in the templates and the edit stands for its name."""
    rows = [
        ({"colour": c}, {key: value.replace("{colour}", c) for key, value in edit.items()})
        for c in colours
    ]
    return make_family(name, category, templates, join, rows, wholes, hides)


def named(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    edits: dict[str, str],
    hides: tuple[str, ...] = (),
) -> Family:
    """One atom per entry; "{it}" in the templates stands for its key.

    An edit is written "attribute=value, attribute=value".
    """
    rows = [
        ({"it": it}, dict(pair.split("=") for pair in edit.split(", ")))
        for it, edit in edits.items()
    ]
    return make_family(name, category, templates, join, rows, (), hides)
