"""A concept's text, as people give it."""

from __future__ import annotations

import unicodedata

BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols by their category that show nothing: fillers of Hangul, empty Braille."""


class WordingError(ValueError):
    """A text that no adapter can be predicted from."""


def says_something(text: str) -> bool:
    """Whether there is a letter, digit, sign or symbol: what is of spaces, control characters and
    zero-width ones alone would leave a text encoder with nothing."""
    return any(unicodedata.category(c)[0] in "LNPS" and c not in BLANK for c in text)


def worded(text: str) -> str:
    """Without the space around it, also what only Python sees as space, such as U+001C.

    WordingError if nothing is left.
    """
    if not says_something(text):
        raise WordingError(f"{text!r} says nothing: a concept is a few words, as 'indigo hair'")
    return text.strip()
