"""Spelling that makes no difference, and texts that mean nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.concepts.text import (
    content_words,
    has_phrase,
    meaningless,
    normal_form,
    split_parts,
    stem,
)

TEXTS = st.text(st.sampled_from("abcéß AÉ,.'-!ﬁ０9\n"), max_size=30)


@given(TEXTS)
def test_the_normal_form_is_its_own(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


@given(
    st.lists(st.sampled_from(["grey hair", "sketch", "an old man", "neon"]), min_size=1),
    st.randoms(),
)
def test_case_articles_spaces_and_order_make_no_difference(
    parts: list[str], rng: random.Random
) -> None:
    other = rng.sample(parts, len(parts))
    written = " ,  ".join(f"The {p.upper()}!" for p in other)
    assert normal_form(", ".join(parts)) == normal_form(written)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("grey hair", "white hair"),
        ("with glasses", "without glasses"),
        ("glass", "glasses"),
        ("old man", "young man"),
        ("no beard", "beard"),
        ("grey hair, sketch", "grey, hair sketch"),
    ],
)
def test_what_differs_stays_different(a: str, b: str) -> None:
    assert normal_form(a) != normal_form(b)
    assert [content_words(p) for p in split_parts(a)] != [content_words(p) for p in split_parts(b)]


def test_stems() -> None:
    words = "sketches colours grey moustaches stylised glasses dress cactus four hour cubism"
    stems = "sketch color gray mustache stylized glasse dress cactus four hour cubism"
    assert [stem(w) for w in words.split()] == stems.split()


def test_a_phrase_is_found_word_by_word() -> None:
    assert has_phrase("a person with long grey hair", "gray hair")
    assert not has_phrase("hair, long and grey", "grey hair")
    assert not has_phrase("sketchy lines", "sketch")
    assert not has_phrase("anything", "style")  # no content words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no letters"),
        ("123 !", "no letters"),
        ("ox", "too short"),
        ("golden " * 20, "too long"),
        ("x" * 81, "too long"),
        ("水墨画", "another script"),
        ("sketch эскиз", "another script"),
        ("I'm sorry, I can't help with that", "refusal or preamble"),
        ("As an AI language model", "refusal or preamble"),
        ("Here are 20 concepts:", "refusal or preamble"),
        ("style of an image", "generic words only"),
        ("a person", "generic words only"),
        ("see https://x.org", "markup or address"),
        ("<b>sketch</b>", "markup or address"),
        ("{'text': 'sketch'}", "markup or address"),
        ("hair hair hair", "one word again and again"),
        ("grey hair, sketch", "more than one concept"),
        ("grey\x00hair", "control characters"),
    ],
)
def test_junk_has_a_reason(text: str, reason: str) -> None:
    assert meaningless(text) == reason


@pytest.mark.parametrize(
    "text",
    ["sketch", "old", "grey hair", "Día de los Muertos make-up", "ukiyo-e print", "1920s haircut"],
)
def test_concepts_have_none(text: str) -> None:
    assert meaningless(text) == ""
