"""What a language model is asked for, and how its answer is read (paper Sec. 3.1, 5.1).

The paper does not print its prompts. A request depends on nothing but its arguments.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

Messages = tuple[dict[str, str], ...]

MEANINGS = {
    "art": "an art style, medium or technique in which a portrait can be redrawn, such as"
    ' "watercolor", "ukiyo-e print" or "stained glass"',
    "characteristic": "a visible change of a person's look, such as hair, skin, age, clothes,"
    ' make-up, or turning into a character or material, such as "curly red hair", "zombie" or'
    ' "bronze statue"',
    "facial": "a change of the facial expression or of what the face does, such as"
    ' "surprised" or "eyes closed"',
}
ANGLES = {
    "art": (
        "painters and their manner",
        "movements and periods",
        "drawing media",
        "painting media",
        "printing techniques",
        "crafts and textiles",
        "traditions of single peoples and regions",
        "animation, comics and games",
        "photography and film",
        "digital art and light",
    ),
    "characteristic": (
        "colour and cut of the hair",
        "beards and eyebrows",
        "skin, its colour and markings",
        "age and health",
        "make-up and face paint",
        "glasses, jewellery and hats",
        "clothes and uniforms",
        "professions and historical figures",
        "creatures and characters of fiction",
        "materials the person may be made of",
        "animals",
        "weather and things upon the person",
    ),
    "facial": (
        "emotions",
        "mouth and tongue",
        "eyes and eyebrows",
        "gaze and pose of the head",
    ),
}
"""What one request after the other looks at, so that they do not all bring the same."""

SYSTEM = (
    "You write short texts for image editing. You answer with one JSON object and nothing else."
)
SHOWN = 300
"""Accepted concepts that a request shows at most."""

WRITE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"concepts": {"type": "array", "items": {"type": "string"}}},
    "required": ["concepts"],
    "additionalProperties": False,
}
PARAPHRASE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "paraphrases": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "concept": {"type": "string"},
                    "texts": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["concept", "texts"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["paraphrases"],
    "additionalProperties": False,
}


class AnswerError(ValueError):
    """An answer that holds nothing usable; its text is the reason."""


def write_messages(
    category: str, count: int, accepted: Sequence[str], round_: int, number: int, seed: int
) -> Messages:
    """Ask for `count` new concepts; number: of the request in its round, from 0."""
    angles = ANGLES[category]
    angle = angles[(number + round_ * 3 + seed) % len(angles)]
    lines = [
        f"Request {number + 1} of round {round_ + 1}, series {seed}.",
        f"Write {count} different concepts. Each is {MEANINGS[category]}.",
        f"Look above all at: {angle}.",
        "Each concept is one to five English words, visible in a portrait, without a comma, and"
        " not a combination of several.",
    ]
    if accepted:
        shown = _drawn(accepted, f"{seed}/{category}/{round_}/{number}")
        lines.append("Not these, nor the same in other words: " + "; ".join(shown) + ".")
    lines.append('Answer as {"concepts": ["…", "…"]}.')
    return _messages(lines)


def paraphrase_messages(
    category: str, texts: Sequence[str], count: int, round_: int, seed: int
) -> Messages:
    """Ask for `count` paraphrases of each text."""
    lines = [
        f"Round {round_ + 1}, series {seed}.",
        f"Say each of these concepts in {count} other ways. Each is {MEANINGS[category]}.",
        "Keep the meaning exactly, neither more nor less; at most eight words, without a comma.",
        *(f"- {text}" for text in texts),
        'Answer as {"paraphrases": [{"concept": "…", "texts": ["…", "…"]}]}.',
    ]
    return _messages(lines)


def read_concepts(answer: str) -> list[str]:
    """Texts of an answer to `write_messages`; AnswerError says what is wrong with it."""
    value = _json(answer)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))  # some models choose another key
    if not isinstance(value, list):
        raise AnswerError("malformed: no list of concepts")
    return [v if isinstance(v, str) else json.dumps(v) for v in value]


def read_paraphrases(answer: str) -> list[tuple[str, str]]:
    """(concept, paraphrase) of an answer to `paraphrase_messages`; AnswerError if there is none."""
    value = _json(answer)
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, dict) and all(isinstance(v, list) for v in value.values()):
        value = [{"concept": k, "texts": v} for k, v in value.items()]
    if not isinstance(value, list):
        raise AnswerError("malformed: no list of paraphrases")
    out = []
    for item in value:
        parts = (item.get("concept"), item.get("texts")) if isinstance(item, dict) else (None, None)
        if not isinstance(parts[0], str) or not isinstance(parts[1], list):
            raise AnswerError("malformed: an item without concept and texts")
        out += [(parts[0], t if isinstance(t, str) else json.dumps(t)) for t in parts[1]]
    return out


def _json(answer: str) -> Any:
    """The JSON of an answer, with or without a code fence or words around it."""
    fence = re.search(r"```(?:\w+)?\s*(.*?)```", answer, re.DOTALL)
    text = (fence[1] if fence else answer).strip()
    starts = [i for i in (text.find("{"), text.find("[")) if i >= 0]
    if not starts:
        refused = re.search(r"\b(?:sorry|can(?:no|['’])t|unable|as an ai)\b", answer, re.IGNORECASE)
        raise AnswerError("refusal" if refused else "malformed: no JSON")
    try:
        value, _ = json.JSONDecoder().raw_decode(text[min(starts) :])
    except (ValueError, RecursionError) as error:
        reason = "JSON nested too deeply" if isinstance(error, RecursionError) else "broken JSON"
        raise AnswerError(f"malformed: {reason}") from error
    return value


def _drawn(texts: Sequence[str], salt: str) -> list[str]:
    """At most SHOWN of the texts, in their order, drawn by hash."""
    if len(texts) <= SHOWN:
        return list(texts)
    ranks = {t: hashlib.sha256(f"{salt}/{t}".encode()).digest() for t in texts}
    kept = set(sorted(texts, key=ranks.__getitem__)[:SHOWN])
    return [t for t in texts if t in kept]


def _messages(lines: Sequence[str]) -> Messages:
    # no system role: some chat templates have none
    return ({"role": "user", "content": "\n".join((SYSTEM, *lines))},)
