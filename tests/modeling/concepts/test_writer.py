"""Concepts from a model's answers: counts, filters, held-out safety, without a model or Ray."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.concepts.concept import ConceptError
from modeling.concepts.language_models import Answer, Prompt
from modeling.concepts.near_duplicates import NearDuplicates
from modeling.concepts.recipe import WritingSpec
from modeling.concepts.table import from_table, to_table
from modeling.concepts.text import has_phrase, normal_form
from modeling.concepts.writer import Ask, ConceptWriter, combined_concept, written_concepts
from tests.chat_server import answer_to
from tests.word_vectors import word_vectors


def writer(seed: int = 0, similarity: float = 0.8, **spec: object) -> ConceptWriter:
    near = NearDuplicates(word_vectors, similarity)
    return ConceptWriter(WritingSpec(**spec), seed, word_vectors, near)


def asking(answer: Callable[[str], str], finish: str = "stop") -> Ask:
    def ask(prompts: list[Prompt]) -> list[Answer]:
        return [Answer(answer(p.messages[0]["content"]), finish, 1, 1) for p in prompts]

    return ask


def reasons(w: ConceptWriter) -> dict[str, str]:
    return {r.text: r.reason for r in w.selection.rejected}


SPEC = {
    "counts": {"art": 12, "characteristic": 12, "facial": 6},
    "test": {"art": 2, "characteristic": 2, "facial": 1},
    "val": {"art": 1},
    "paraphrases": {"art": 13, "characteristic": 10},
    "per_request": 5,
    "paraphrased_together": 3,
}


def test_a_good_model_meets_the_counts_and_the_same_answers_give_the_same() -> None:
    made = []
    for _ in range(2):
        w = writer(**SPEC)
        split = w.hold_out(w.write(asking(answer_to)))
        heldout = [t for s in ("val", "test") for texts in split[s].values() for t in texts]
        said = w.paraphrase(asking(answer_to), split["train"], heldout)
        made.append((split, said, list(w.combinations(split["train"])), w.selection.rejected))
    assert made[0] == made[1]
    split, said, combinations, _ = made[0]
    counts = {s: {c: len(t) for c, t in by.items()} for s, by in split.items()}
    assert counts == {
        "train": {"art": 9, "characteristic": 10, "facial": 5},
        "val": {"art": 1, "characteristic": 0, "facial": 0},
        "test": {"art": 2, "characteristic": 2, "facial": 1},
    }
    per_concept = [sum(c == t for c, _ in said) for t in split["train"]["art"]]
    assert sum(per_concept) == 13 and set(per_concept) == {1, 2}
    assert len(set(combinations)) == len(combinations) == 90
    assert combinations != sorted(combinations)
    other = writer(seed=1, **SPEC)
    assert other.hold_out(other.write(asking(answer_to))) != split

    concepts = written_concepts(split, said)
    concepts += [combined_concept(p, "train") for p in combinations]
    assert from_table(to_table(concepts)) == concepts
    assert len({c.concept_id for c in concepts}) == len(concepts)
    by_id = {c.concept_id: c for c in concepts}
    for c in concepts:
        assert c.families == () and c.edit == {}
        assert all(by_id[p].split == "train" and by_id[p].origin == "written" for p in c.parents)
        assert (c.heldout == "atoms") == (c.split != "train")


def test_junk_is_dropped_with_its_reason() -> None:
    batches = iter(
        [
            ["sketch", "The Sketch!", "sketches", "a b, c d", "style", "mosaic", "fresco", "batik"],
            ["12", "I cannot do that"],
        ]
    )
    w = writer(counts={"art": 3}, per_request=3, requests=2)
    found = w.write(asking(lambda text: json.dumps({"concepts": next(batches)})))
    assert found["art"] == ["sketch", "mosaic", "fresco"]
    assert reasons(w) == {
        "The Sketch!": "repeated",
        "sketches": "nearly repeats 'sketch'",
        "a b, c d": "more than one concept",
        "style": "generic words only",
        "batik": "more than asked for",
        "12": "no letters",
        "I cannot do that": "refusal or preamble",
    }
    assert [r.request for r in w.selection.rejected] == [1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("I'm sorry, I can't help with that.", "stop", "refusal"),
        ("", "refusal", "refusal"),
        ('{"concepts": ["sk', "stop", "malformed: broken JSON"),
        ('{"concepts": ["sketch"]}', "length", "malformed: cut at max_tokens"),
        ("sketch, batik", "stop", "malformed: no JSON"),
        ('{"a": 1, "b": 2}', "stop", "malformed: no list of concepts"),
        ("[" * 100_000, "stop", "malformed: JSON nested too deeply"),
    ],
)
def test_a_model_that_never_answers_well_ends_in_a_clear_error(
    text: str, finish: str, reason: str
) -> None:
    w = writer(counts={"art": 3}, requests=4, round_requests=2)
    with pytest.raises(ConceptError, match=r"art: 0 of 3 after llm\.requests=4 .*Raise llm\.req"):
        w.write(asking(lambda _: text, finish))
    assert len(w.selection.rejected) == 4 and {r.reason for r in w.selection.rejected} == {reason}
    fewer = writer(counts={"art": 3}, requests=1, allow_fewer=True)
    assert fewer.write(asking(lambda _: text, finish))["art"] == []
    assert fewer.shortfalls == [f"art: 0 of 3 after llm.requests=1 (rejected: 1 × {reason})"]


def test_a_flood_of_duplicates_spends_the_budget_and_no_more() -> None:
    asked = []

    def flood(text: str) -> str:
        asked.append(text)
        return json.dumps(["sketch"] * 50)

    w = writer(counts={"art": 5}, requests=7)
    with pytest.raises(ConceptError, match=r"art: 1 of 5 .*rejected: .* × repeated"):
        w.write(asking(flood))
    assert len(asked) == len(set(asked)) == 7  # a repeated question would bring the same answer


def test_the_budget_meets_all_categories_alike() -> None:
    w = writer(**{**SPEC, "requests": 3, "allow_fewer": True})
    assert all(w.write(asking(answer_to)).values())


def test_paraphrases_are_filtered() -> None:
    w = writer(counts={"art": 4}, paraphrases={"art": 2}, allow_fewer=True, requests=1)
    train = {"art": ["pencil sketch", "batik print"], "characteristic": [], "facial": []}
    w.selection.vectors([t for texts in train.values() for t in texts])
    answer = [
        {
            "concept": "Pencil sketch",
            "texts": [
                "sketch made with pencil",  # fine
                "batik style print",  # the other concept
                "oil painting with pencil",  # holds a held-out one
                "utterly different words here",
                "a drawn pencil sketch",
            ],
        },
        {"concept": "unheard of", "texts": ["pencil sketch again"]},
        {"concept": "batik print", "texts": ["sketch made with pencil", "print of true batik"]},
    ]
    said = w.paraphrase(asking(lambda _: json.dumps(answer)), train, ["oil painting"])
    assert said == [
        ("pencil sketch", "sketch made with pencil"),
        ("batik print", "print of true batik"),
    ]
    assert reasons(w) == {
        "batik style print": "says another concept, as 'batik print' does",
        "oil painting with pencil": "says held-out 'oil painting'",
        "utterly different words here": "strays from 'pencil sketch'",
        "a drawn pencil sketch": "more than asked for",
        "pencil sketch again": "of a concept that was not asked for",
        "sketch made with pencil": "repeated",
    }


def test_too_few_to_hold_out() -> None:
    w = writer(counts={"art": 3}, test={"art": 2})
    texts = {"art": ["sketch", "pencil sketch", "ink sketch"], "characteristic": [], "facial": []}
    assert "sketch" in w.hold_out(texts)["train"]["art"]  # two others contain it
    w = writer(counts={"art": 3}, test={"art": 2}, val={"art": 1})
    with pytest.raises(ConceptError, match="3 art concepts wanted, but only 2 of 3"):
        w.hold_out(texts)


NOUNS = ("hair", "sketch", "print", "old man", "mask", "neon glow", "beard")
ADJECTIVES = ("", "grey", "gray", "red", "long red", "batik", "the", "without", "style of")


def phrases(rng: random.Random, count: int) -> list[str]:
    made = [f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(count)]
    made = [m if rng.random() < 0.7 else " ".join(reversed(m.split())) for m in made]
    return [m if rng.random() < 0.7 else f"{m}s" for m in made]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 2))
def test_nothing_held_out_is_said_in_training(seed: int, test: int, val: int) -> None:
    """No training text says, nearly says, or contains a held-out one, whatever the answers."""
    rng = random.Random(seed)

    def answer(text: str) -> str:
        if "other ways" in text:
            concepts = [line[2:] for line in text.splitlines() if line.startswith("- ")]
            said = [{"concept": c, "texts": [*phrases(rng, 6), f"{c} of old"]} for c in concepts]
            return json.dumps({"paraphrases": said})
        return json.dumps(phrases(rng, 12))

    w = writer(
        seed,
        counts={"art": 12, "characteristic": 12},
        test={"art": test},
        val={"characteristic": val},
        paraphrases={"art": 20, "characteristic": 20},
        paraphrase_similarity=-1.0,
        requests=6,
        allow_fewer=True,
    )
    try:
        split = w.hold_out(w.write(asking(answer)))
        heldout = [t for s in ("val", "test") for texts in split[s].values() for t in texts]
        said = w.paraphrase(asking(answer), split["train"], heldout)
    except ConceptError:
        return  # too few that can be held out
    assert len(heldout) == test + val
    combinations = [", ".join(p) for p in itertools.islice(w.combinations(split["train"]), 40)]
    leaks = w.selection.repeats_heldout(combinations, word_vectors(combinations), heldout)
    training = [t for texts in split["train"].values() for t in texts]
    training += [t for _, t in said]
    training += [t for i, t in enumerate(combinations) if i not in leaks]
    check_apart(w.selection.near, training, heldout)
    assert len({normal_form(t) for t in training}) == len(training)


def check_apart(near: NearDuplicates, training: list[str], heldout: Iterable[str]) -> None:
    heldout = list(heldout)
    pairs = near.matches(training, word_vectors(training), heldout, word_vectors(heldout))
    assert [(training[i], heldout[j]) for i, j in pairs] == []
    for text, held in itertools.product(training, heldout):
        assert normal_form(text) != normal_form(held)
        assert not has_phrase(text, held), (text, held)
