"""Texts of concepts that a language model wrote: equal but for spelling, and meaningless ones.

The paper filters "repeated or meaningless" concepts (Sec. 3.1) and does not say how.
"""

from __future__ import annotations

import re
import unicodedata

ARTICLES = frozenset({"a", "an", "the"})
_GENERIC = """
and as at be being been by for from has have having her his in into is it its like of on onto
or she he someone that their them they this to was were who with
add added apply applied change changed convert converted edit edited give given gives giving
made make makes making render rendered transform transformed turn turned wear wearing wears
appear appearance appearing character concept design effect face facial feature featuring filter
figure image individual inspired kind look looked looking looks manner modification person
people persons photo photograph photographs photos picture pictures portrait portraits reminiscent
style styled styles subject technique theme themed type version art artistic artwork
"""
GENERIC = frozenset(_GENERIC.split())
"""Words that tell no concept from another. Not "without", "no", "old": those do."""

REFUSALS = (
    "as an ai",
    "as a language model",
    "i apologize",
    "i apologise",
    "i am sorry",
    "i am unable",
    "i can not",
    "i cannot",
    "i cant",
    "i wont",
    "im sorry",
    "im unable",
    "sorry but",
    "cannot assist",
    "cannot help",
    "unable to assist",
    "against my",
    "here are",
    "here is",
    "sure here",
    "of course",
)
_MARKUP = re.compile(r"https?:|www\.|\w\.(?:com|org|net)\b|</?\w+[^>]*>|[{}\[\]<>|`\\#*=]|&\w+;|__")
_WORD = re.compile(r"[^\W_]+")
LEAST_LETTERS, MOST_CHARACTERS, MOST_WORDS = 3, 80, 12


def words(text: str) -> list[str]:
    """Lower-case words: NFKC, case folded, apostrophes closed up, punctuation and articles gone."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return [w for w in _WORD.findall(re.sub(r"['’ʼ`´]", "", plain)) if w not in ARTICLES]


def split_parts(text: str) -> list[str]:
    """The parts that commas divide, those without a word left out; the text if there is none."""
    parts = [p.strip() for p in unicodedata.normalize("NFKC", text).split(",")]
    return [p for p in parts if words(p)] or [text]


def normal_form(text: str) -> str:
    """What is left of a text without case, punctuation, articles and order of its comma parts."""
    return ", ".join(sorted(" ".join(words(part)) for part in split_parts(text)))


SPELLINGS = {
    "grey": "gray",
    "jewellery": "jewelry",
    "moustache": "mustache",
    **{plural: "mustache" for plural in ("moustach", "mustach")},
}
"""British → American, and what is left of a plural, where no rule of `stem` does it."""


def stem(word: str) -> str:
    """The word without a regular plural ending, in American spelling: "colours" → "color".

    "sketches" → "sketch", "glasses" → "glasse": not "glass", of which they need not be made.
    """
    if re.search(r"(?:ch|sh|x|z)es$", word):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 5:
        word = re.sub(r"is(?=e[ds]?$|ing$)", "iz", word.replace("our", "or"))
    return SPELLINGS.get(word, word)


def content_words(text: str) -> list[str]:
    """Stems of the words that carry the meaning, in order."""
    return [stem(w) for w in words(text) if w not in GENERIC]


def has_phrase(text: str, phrase: str) -> bool:
    """Whether the content words of `phrase`, some at least, stand side by side in `text`."""
    inner = " ".join(content_words(phrase))
    return bool(inner) and f" {inner} " in f" {' '.join(content_words(text))} "


def meaningless(text: str) -> str:
    """Why a text is no single concept, in a few words; "" if it may be one."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return "no letters"
    if any(not c.isprintable() for c in text):
        return "control characters"
    if any(not unicodedata.name(c, "").startswith("LATIN") for c in _letters(text)):
        return "another script"
    if _MARKUP.search(text):
        return "markup or address"
    said = f" {' '.join(words(text))} "
    if any(f" {' '.join(words(phrase))} " in said for phrase in REFUSALS):
        return "refusal or preamble"
    if len(letters) < LEAST_LETTERS:
        return "too short"
    if len(text) > MOST_CHARACTERS or len(words(text)) > MOST_WORDS:
        return "too long"
    content = content_words(text)
    if not content:
        return "generic words only"
    if any(a == b == c for a, b, c in zip(content, content[1:], content[2:], strict=False)):
        return "one word again and again"
    if "," in unicodedata.normalize("NFKC", text) or ";" in text or "\n" in text:
        return "more than one concept"
    return ""


def _letters(text: str) -> list[str]:
    return [c for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
