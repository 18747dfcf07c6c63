"""Near-duplicates: against a plain loop over pairs, and on texts that look alike but differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.concepts import near_duplicates
from modeling.concepts.near_duplicates import NearDuplicates
from modeling.concepts.text import content_words
from modeling.concepts.text import words as all_words
from modeling.text import TextEncoder
from tests.word_vectors import word_vectors


@pytest.fixture(scope="module")
def minilm() -> Iterator[NearDuplicates]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder = TextEncoder()
    yield NearDuplicates(lambda texts: encoder.encode_columns(texts).unit())
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("grey hair, sketch", "gray hair, sketch"),
        ("grey hair, sketch", "Sketch, grey hair."),
        ("Batik", "in Batik style"),
        ("clown", "clowns"),
        ("pencil sketch", "sketch in pencil"),
        ("blond hair", "a portrait of a person with blonde hair"),
        ("watercolour painting", "watercolor painting"),
        ("red hair sketch", "red hair, sketch"),
    ],
)
def test_copies_are_found(minilm: NearDuplicates, first: str, again: str) -> None:
    texts = [first, "stained glass", again]
    assert minilm.repeats(texts, minilm.embed(texts)).tolist() == [-1, -1, 0]
    pairs = minilm.matches(texts[2:], minilm.embed(texts[2:]), texts[:2], minilm.embed(texts[:2]))
    assert pairs.tolist() == [[0, 0]]


def test_what_differs_is_kept(minilm: NearDuplicates) -> None:
    texts = [
        *("grey hair, sketch", "white hair, sketch", "red hair, sketch", "silver hair, sketch"),
        *("red hair, blue sketch", "blue hair, red sketch", "light blue hair", "dark blue hair"),
        *("with glasses", "without glasses", "glass", "old man", "old woman", "two scars"),
        *("three scars", "pencil sketch", "sketch", "Monday", "Tuesday"),
    ]
    assert (minilm.repeats(texts, minilm.embed(texts)) == -1).all()


def test_fixed_texts_are_kept(minilm: NearDuplicates) -> None:
    texts = ["grey hair", "gray hair", "grey hairs"]
    vectors = minilm.embed(texts)
    assert minilm.repeats(texts, vectors, fixed=2).tolist() == [-1, -1, 0]
    assert minilm.repeats([], vectors[:0]).tolist() == []
    assert minilm.matches(texts, vectors, [], vectors[:0]).shape == (0, 2)


WORDS = st.sampled_from("grey red hair sketch old style with neon".split())  # noqa: SIM905
PARTS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=12), st.sampled_from([1, 3, 2048]))
def test_the_search_in_blocks_is_a_loop_over_pairs(texts: list[str], block: int) -> None:
    """Texts of one part, orthogonal words: by definition."""
    vectors = word_vectors(texts)
    near = NearDuplicates(word_vectors, 0.8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "BLOCK", block)
        found = near.repeats(texts, vectors)
    meanings = word_vectors([" ".join(content_words(t)) or t for t in texts])
    kept: list[int] = []
    for i, text in enumerate(texts):
        words = content_words(text)

        def same(j: int, words: list[str] = words, i: int = i) -> bool:
            others = content_words(texts[j])
            if not words or not others:
                # a word said twice is that word
                return {*all_words(texts[i])} == {*all_words(texts[j])}
            alike = float(meanings[i] @ meanings[j]) >= 0.8 or words == others
            return alike and set(words) == set(others)

        earlier = [j for j in kept if same(j)]
        assert found[i] == (min(earlier) if earlier else -1), (texts, i)
        if not earlier:
            kept.append(i)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PARTS, PARTS), min_size=1, max_size=10, unique=True))
def test_kept_texts_do_not_match_each_other(pairs: list[tuple[str, str]]) -> None:
    texts = [", ".join(pair) for pair in pairs]
    near, vectors = NearDuplicates(word_vectors, 0.8), word_vectors(texts)
    kept = np.flatnonzero(near.repeats(texts, vectors) < 0)
    these = [texts[i] for i in kept]
    found = near.matches(these, vectors[kept], these, vectors[kept])
    assert found.tolist() == [[i, i] for i in range(len(these))]
