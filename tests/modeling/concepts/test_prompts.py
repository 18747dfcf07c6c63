"""What a language model is asked, and how its answers are read, whatever they are."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.concepts.grammar.family import CATEGORIES
from modeling.concepts.prompts import (
    AnswerError,
    paraphrase_messages,
    read_concepts,
    read_paraphrases,
    write_messages,
)


def test_requests_depend_on_their_arguments_alone() -> None:
    every = [
        write_messages(category, 5, ["sketch"], round_, number, seed)
        for category, round_, number, seed in itertools.product(CATEGORIES, (0, 1), (0, 1), (0, 1))
    ]
    assert len({str(m) for m in every}) == len(every)
    assert write_messages("art", 5, ["x"], 0, 0, 0) == write_messages("art", 5, ["x"], 0, 0, 0)
    many = [f"concept {i}" for i in range(1000)]
    (message,) = write_messages("art", 5, many, 0, 0, 0)
    assert message["content"].count("concept ") < 400
    (message,) = paraphrase_messages("art", ["sketch", "batik"], 7, 0, 0)
    assert "- sketch\n- batik" in message["content"] and "in 7 other ways" in message["content"]


@pytest.mark.parametrize(
    "text",
    [
        '{"concepts": ["sketch", "batik"]}',
        '```json\n{"concepts": ["sketch", "batik"]}\n```',
        'Sure!\n["sketch", "batik"]\nAnything else?',
        '{"styles": ["sketch", "batik"]}',
    ],
)
def test_answers_are_read_with_what_is_around_them(text: str) -> None:
    assert read_concepts(text) == ["sketch", "batik"]


def test_paraphrases_are_read() -> None:
    wanted = [("sketch", "drawing"), ("sketch", "drawn")]
    whole = {"paraphrases": [{"concept": "sketch", "texts": ["drawing", "drawn"]}]}
    assert read_paraphrases(json.dumps(whole)) == wanted
    assert read_paraphrases('{"paraphrases": {"sketch": ["drawing", "drawn"]}}') == wanted
    for bad in (
        '{"paraphrases": ["drawing"]}',
        '{"a": 1, "b": 2}',
        '[{"concept": 1, "texts": []}]',
    ):
        with pytest.raises(AnswerError, match="malformed"):
            read_paraphrases(bad)


@given(st.text(max_size=60) | st.from_regex(r'[{\[]["a:,\]}\[{ 0-9]{0,30}'))
def test_any_answer_is_read_or_refused(text: str) -> None:
    for read in (read_concepts, read_paraphrases):
        try:
            read(text)
        except AnswerError as error:
            assert str(error)
