"""What atoms of the grammar say and do together, and which atoms a text says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from modeling.concepts.concept import Concept, concept_id
from modeling.concepts.grammar.families import FAMILIES

Ref = tuple[str, int]  # family name, index of the atom in it


def to_concept(
    refs: Sequence[Ref], split: str, heldout: str = "", *, adapter: bool = True
) -> Concept:
    """The concept of an atom, or of several that are compatible, in the grammar's order."""
    names = tuple(name for name, _ in refs)
    text = next(variants(refs))
    atom = len(refs) == 1
    return Concept(
        concept_id=concept_id(text),
        text=text,
        category=FAMILIES[names[0]].category if atom else "combined",
        families=names,
        split=split,
        heldout=heldout,
        origin="written" if atom else "combined",
        parents=() if atom else tuple(concept_id(next(variants([ref]))) for ref in refs),
        edit=edit_of(refs),
        adapter=adapter,
    )


def parse_concept(text: str) -> Concept | None:
    """Read a text that the grammar can say, paraphrases included; None for any other.

    The concept belongs to no plan: its split is "test" and `heldout` is empty. A combination's
    parts may come in any order, each said as it is inside a combination or on its own.
    """
    parts = [part.strip() for part in text.strip().split(", ")]
    refs = [_sayings().get(part.lower()) for part in parts]
    known = [ref for ref in refs if ref is not None]
    if len(known) < len(refs):
        return None
    families = [FAMILIES[name] for name, _ in known]
    if not all(a.compatible(b) for a, b in itertools.combinations(families, 2)):
        return None
    return replace(
        to_concept(known, "test"), text=text.strip(), concept_id=concept_id(text.strip())
    )


def variants(refs: Sequence[Ref]) -> Iterator[str]:
    """Every way of saying an atom or a combination, its own text first."""
    sayings = [
        FAMILIES[name].phrases(i, leading=place == 0) for place, (name, i) in enumerate(refs)
    ]
    return (", ".join(parts) for parts in itertools.product(*sayings))


def edit_of(refs: Sequence[Ref]) -> dict[str, str]:
    """What the atoms do together."""
    return {k: v for name, i in refs for k, v in FAMILIES[name].rows[i].edit.items()}


def edit_key(refs: Sequence[Ref]) -> frozenset[tuple[str, str]]:
    """The same, to compare and to look up."""
    return frozenset(edit_of(refs).items())


@cache
def _sayings() -> dict[str, Ref]:
    """Lower-case phrase -> atom, over every way of saying every atom."""
    found: dict[str, Ref] = {}
    for family in FAMILIES.values():
        for i in range(len(family.rows)):
            for leading in (True, False):
                for phrase in family.phrases(i, leading=leading):
                    found.setdefault(phrase.lower(), (family.name, i))
    return found
