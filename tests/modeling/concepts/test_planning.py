"""The laws of the split."""

from __future__ import annotations

import collections
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.concepts.concept import Concept, ConceptError, concept_id
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.planning import plan_concepts
from modeling.concepts.recipe import ConceptSpec
from modeling.concepts.saying import parse_concept
from modeling.concepts.table import from_table, to_table

SMALL = ["hair", "skin", "expression", "background", "beanie", "scarf", "duotone", "sketch", "tone"]


def edit_of(concept: Concept) -> frozenset[tuple[str, str]]:
    return frozenset(concept.edit.items())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    atoms_per_family=st.integers(4, 12),
    test_atoms=st.integers(0, 12),
    val_atoms=st.integers(0, 4),
    test_combinations=st.integers(0, 12),
    val_combinations=st.integers(0, 6),
    train_combinations=st.integers(0, 40),
    paired_combinations=st.integers(0, 20),
    train_atoms=st.sampled_from([-1, 18]),  # fewer would leave too few combinations
    test_families=st.integers(0, 8),
    val_families=st.integers(0, 4),
    paraphrases=st.integers(0, 3),
)
def test_laws_of_the_split(seed: int, paraphrases: int, **counts: Any) -> None:
    spec = ConceptSpec(
        families=SMALL,
        heldout_families=["turban", "neon"],
        validation_families=["halo"],
        paired_families=["statue", "palette"],
        paraphrases=paraphrases,
        **counts,
    )
    plan = plan_concepts(spec, seed)
    assert plan == plan_concepts(spec, seed)

    # Concepts without an adapter come on top: all others stay what they are without them.
    bare = replace(spec, paired_combinations=0, paired_families=[], paraphrases=0)
    assert [c for c in plan if c.adapter and c.origin != "paraphrased"] == plan_concepts(bare, seed)
    without = [c for c in plan if not c.adapter]
    paired = [c for c in without if c.category != "combined" and c.origin != "paraphrased"]
    assert {c.families[0] for c in paired} == {"statue", "palette"}
    assert len(without) == (spec.paired_combinations + len(paired)) * (1 + paraphrases)
    assert all(c.split == "train" for c in without)

    own = [c for c in plan if c.origin != "paraphrased"]
    count = collections.Counter((c.split, c.heldout, c.origin) for c in own)
    assert count["test", "atoms", "written"] == spec.test_atoms
    assert count["val", "atoms", "written"] == spec.val_atoms
    assert count["test", "combinations", "combined"] == spec.test_combinations
    assert count["val", "combinations", "combined"] == spec.val_combinations
    combined = [c for c in own if c.split == "train" and c.origin == "combined"]
    assert len(combined) == spec.train_combinations + spec.paired_combinations
    assert count["test", "families", "written"] == spec.test_families
    assert count["val", "families", "written"] == spec.val_families
    if spec.train_atoms >= 0:
        assert count["train", "", "written"] == spec.train_atoms + len(paired)

    # Texts and ids are unique; so are edits, but for paraphrases.
    assert len({c.text for c in plan}) == len({c.concept_id for c in plan}) == len(plan)
    assert len({edit_of(c) for c in own}) == len(own)
    assert all((c.heldout == "") == (c.split == "train") for c in plan)

    by_id = {c.concept_id: c for c in plan}
    train_atoms = {c.concept_id for c in own if c.split == "train" and c.origin == "written"}
    seen_families = {family for c in plan if c.split == "train" for family in c.families}
    for c in own:
        if c.origin == "combined":
            assert set(c.parents) <= train_atoms
            union = {k: v for parent in c.parents for k, v in by_id[parent].edit.items()}
            assert c.edit == union
            assert sum(len(by_id[p].edit) for p in c.parents) == len(c.edit)
        if c.heldout == "atoms":
            assert set(c.families) <= seen_families
        if c.heldout == "families":
            assert not set(c.families) & seen_families
            assert set(c.families) <= ({"halo"} if c.split == "val" else {"turban", "neon"})

    # Nothing held out comes back through a paraphrase.
    heldout_edits = {edit_of(c) for c in own if c.heldout}
    heldout_texts = {c.text for c in own if c.heldout}
    said = [c for c in plan if c.origin == "paraphrased"]
    assert len(said) == paraphrases * sum(c.split == "train" for c in own)
    for c in said:
        (parent,) = c.parents
        assert by_id[parent].split == c.split == "train"
        assert by_id[parent].edit == c.edit
        assert edit_of(c) not in heldout_edits
        assert c.text not in heldout_texts


def test_training_combinations_cover_atoms_evenly() -> None:
    spec = ConceptSpec(
        families=["hair", "background", "sketch"], atoms_per_family=12, train_combinations=90
    )
    plan = plan_concepts(spec, 3)
    degree = collections.Counter(p for c in plan for p in c.parents)
    assert len(degree) == 36
    assert max(degree.values()) - min(degree.values()) <= 2
    pairs = collections.Counter(c.families for c in plan if c.category == "combined")
    assert len(pairs) == 3


def test_every_possible_combination_can_be_had() -> None:
    spec = ConceptSpec(families=["hair", "sketch"], atoms_per_family=6, train_combinations=36)
    assert len(plan_concepts(spec, 0)) == 12 + 36
    spec.train_combinations = 37
    with pytest.raises(ConceptError, match="train_combinations: 37 wanted, but 36"):
        plan_concepts(spec, 0)


def test_triples_read_naturally() -> None:
    spec = ConceptSpec(
        families=["hair", "background", "sketch"],
        atoms_per_family=4,
        train_combinations=64,
        combine=[["sketch", "hair", "background"]],
    )
    plan = [c for c in plan_concepts(spec, 0) if c.category == "combined"]
    assert len(plan) == 64
    assert all(c.families == ("hair", "background", "sketch") for c in plan)
    assert "red hair, on a red background, as a red pencil sketch" in {c.text for c in plan}


def test_only_what_the_editor_supports() -> None:
    def supports(family: str) -> bool:
        return not FAMILIES[family].needs_avatar

    plan = plan_concepts(ConceptSpec(atoms_per_family=3), 0, supports)
    assert {c.category for c in plan} == {"art"}
    with pytest.raises(ConceptError, match="does not support 'hair'"):
        plan_concepts(ConceptSpec(families=["hair"]), 0, supports)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ["hare"]}, "families: unknown family 'hare'"),
        ({"heldout_families": ["hare"]}, "heldout_families: unknown family 'hare'"),
        ({"families": ["hair"], "heldout_families": ["hair"]}, "families: none is left"),
        ({"test_atoms": 10}, "test_atoms: 10 wanted, but only 4"),
        ({"test_atoms": 2, "val_atoms": 3}, "val_atoms: 3 wanted, but only 2"),
        ({"train_atoms": 9}, "train_atoms: 9 wanted, but only 8"),
        ({"train_atoms": 1, "test_atoms": 2}, "train_atoms: 1 wanted, but the held-out"),
        ({"test_combinations": 17}, "test_combinations: 17 wanted, but 16"),
        ({"test_families": 1}, "test_families: 1 wanted, but heldout_families has 0"),
        ({"val_families": 1}, "val_families: 1 wanted, but validation_families has 0"),
        (
            {"heldout_families": ["halo"], "paired_families": ["halo"]},
            "paired_families: 'halo' is one of heldout_families",
        ),
        (
            {"heldout_families": ["halo"], "validation_families": ["halo"]},
            "validation_families: 'halo' is one of heldout_families",
        ),
        ({"paraphrases": 99}, "paraphrases: 99 wanted"),
        ({"combine": [["hair", "skin"]]}, "combine: 'skin' is no family of training"),
        ({"combine": [["hair", "hair"]]}, "combine: 'hair' and 'hair' change the same"),
        ({"combine": [["hair"]]}, "needs two families"),
        ({"val_atoms": -1}, "val_atoms must be 0 or more"),
    ],
)
def test_impossible_plans_name_the_key(changes: dict[str, object], message: str) -> None:
    values = {"families": ["hair", "sketch"], "atoms_per_family": 4, **changes}
    with pytest.raises(ConceptError, match=message):
        plan_concepts(ConceptSpec(**values), 0)


def test_tables_keep_everything() -> None:
    spec = ConceptSpec(
        families=SMALL, atoms_per_family=4, train_combinations=9, test_atoms=2, paraphrases=1
    )
    plan = plan_concepts(spec, 1)
    assert from_table(to_table(plan)) == plan
    assert from_table(to_table([])) == []
    with pytest.raises(ConceptError, match="lacks the columns edit"):
        from_table(to_table(plan).drop_columns("edit"))
    broken = to_table(plan).to_pylist()[:1]
    broken[0]["edit"] = "[1"
    with pytest.raises(ConceptError, match=r"cannot be read"):
        from_table(to_table(plan).from_pylist(broken))


def test_texts_are_understood_again() -> None:
    spec = ConceptSpec(
        families=SMALL, atoms_per_family=5, train_combinations=40, test_atoms=3, paraphrases=4
    )
    for concept in plan_concepts(spec, 5):
        parsed = parse_concept(concept.text)
        assert parsed is not None
        assert parsed.edit == concept.edit
        assert parsed.concept_id == concept.concept_id
    mixed = parse_concept("As a teal pencil sketch, indigo hair")
    assert mixed is not None
    assert mixed.edit == {"filter": "sketch", "colour": "teal", "hair": "indigo"}
    assert parse_concept("hair like Batman") is None
    assert parse_concept("red hair, teal hair") is None


def test_ids_are_safe_file_names() -> None:
    name = concept_id("Ümläut / ../ 'x' " + "very " * 100)
    assert len(name) <= 110
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert concept_id("a b") != concept_id("a-b")
    assert concept_id("...").startswith("concept-")
