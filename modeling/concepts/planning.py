"""The plan of all concepts: training and held-out sets, by the grammar.

Follows Sec. 3.1 of the paper: atoms of three categories, combinations across categories and
paraphrases; held-out concepts are decided first and never enter a training combination.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

from modeling.concepts.atoms import even, paired_atoms, split_atoms, unseen_atoms
from modeling.concepts.combinations import Combinations, family_tuples
from modeling.concepts.concept import Concept, ConceptError, concept_id
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.grammar.family import Family
from modeling.concepts.recipe import ConceptSpec
from modeling.concepts.saying import Ref, to_concept, variants
from modeling.concepts.shuffle import shuffled


def plan_concepts(
    spec: ConceptSpec, seed: int, supports: Callable[[str], bool] = lambda family: True
) -> list[Concept]:
    """Choose the concepts of every split; the same arguments give the same list.

    Held-out concepts are chosen first: (a) atoms of families that appear nowhere else, (b) atoms
    of families that training sees, (c) combinations of training atoms that training does not see.
    No combination contains a held-out atom, and no two concepts have the same text or, paraphrases
    apart, the same edit.

    supports: tells by a family's name whether the editor can apply it.
    Raises ConceptError that names the key and what is available when a count cannot be met.
    """
    _check_counts(spec)
    seen, others = _families(spec, supports)
    test_families = unseen_atoms(
        others["heldout_families"], spec.test_families, "test_families", "heldout_families"
    )
    val_families = unseen_atoms(
        others["validation_families"], spec.val_families, "val_families", "validation_families"
    )
    pools = {f.name: even(len(f.rows), spec.atoms_per_family) for f in seen}
    test, val, train = split_atoms(spec, seed, pools)

    heldout = [*test, *val, *test_families, *val_families]
    paired = paired_atoms(spec, others["paired_families"], [*train, *heldout])

    planner = Combinations(train, family_tuples(spec, seen), seed)
    planner.avoid([*heldout, *paired])
    combined = {
        split: planner.choose(count, f"{split}_combinations")
        for split, count in (
            ("test", spec.test_combinations),
            ("val", spec.val_combinations),
            # one choice: the collected ones do not depend on how many others follow them
            ("train", spec.train_combinations + spec.paired_combinations),
        )
    }
    concepts = [
        *(to_concept([ref], "train") for ref in train),
        *(
            to_concept(refs, "train", adapter=i < spec.train_combinations)
            for i, refs in enumerate(combined["train"])
        ),
        *(to_concept([ref], "train", adapter=False) for ref in paired),
        *(to_concept([ref], "val", "atoms") for ref in val),
        *(to_concept(refs, "val", "combinations") for refs in combined["val"]),
        *(to_concept([ref], "val", "families") for ref in val_families),
        *(to_concept([ref], "test", "atoms") for ref in test),
        *(to_concept(refs, "test", "combinations") for refs in combined["test"]),
        *(to_concept([ref], "test", "families") for ref in test_families),
    ]
    parts = [*([ref] for ref in train), *combined["train"], *([ref] for ref in paired)]
    concepts += _paraphrases(concepts, parts, spec.paraphrases, seed)
    clash = _first_repeat(concept.concept_id for concept in concepts)
    if clash:
        raise ConceptError(f"two concepts have the id {clash!r}: change the seed or the counts")
    return concepts


def _check_counts(spec: ConceptSpec) -> None:
    for key, value in vars(spec).items():
        least = -1 if key == "train_atoms" else 0
        if isinstance(value, int) and value < least:
            raise ConceptError(f"{key} must be {least} or more, got {value}")


def _families(
    spec: ConceptSpec, supports: Callable[[str], bool]
) -> tuple[list[Family], dict[str, list[Family]]]:
    """Families whose adapters are collected, and by key the others, all in the grammar's order."""
    supported = [name for name in FAMILIES if supports(name)]
    others = ("heldout_families", "validation_families", "paired_families")
    for key in ("families", *others):
        for name in getattr(spec, key):
            if name not in FAMILIES:
                known = ", ".join(FAMILIES)
                raise ConceptError(f"{key}: unknown family {name!r}, use one of {known}")
            if name not in supported:
                known = ", ".join(supported)
                raise ConceptError(f"{key}: the editor does not support {name!r}, only {known}")
    for first, second in itertools.combinations(others, 2):
        both = set(getattr(spec, first)) & set(getattr(spec, second))
        if both:
            raise ConceptError(f"{second}: {min(both)!r} is one of {first}, too")
    seen = set(spec.families or supported).difference(*(getattr(spec, key) for key in others))
    if not seen:
        raise ConceptError("families: none is left for training")
    return (
        [FAMILIES[name] for name in supported if name in seen],
        {key: [FAMILIES[n] for n in supported if n in getattr(spec, key)] for key in others},
    )


def _paraphrases(
    concepts: list[Concept], parts: list[list[Ref]], count: int, seed: int
) -> list[Concept]:
    """Say each training concept `count` more times; `parts` are the atoms of each, in order."""
    texts = {concept.text for concept in concepts}
    said: list[Concept] = []
    for parent, refs in zip(concepts, parts, strict=False) if count else ():
        fresh = [text for text in variants(refs) if text not in texts]
        if count > len(fresh):
            raise ConceptError(
                f"paraphrases: {count} wanted, but {parent.text!r} has only {len(fresh)}"
            )
        for text in shuffled(fresh, f"{seed}/paraphrases")[:count]:
            texts.add(text)
            said.append(
                replace(
                    parent,
                    concept_id=concept_id(text),
                    text=text,
                    origin="paraphrased",
                    parents=(parent.concept_id,),
                )
            )
    return said


def _first_repeat(items: Iterable[str]) -> str:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return ""
