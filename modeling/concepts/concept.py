"""A concept: a text and the edit it stands for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")


class ConceptError(ValueError):
    """A plan that cannot be met, or a table that holds no concepts; names the key at fault."""


@dataclass(frozen=True)
class Concept:
    """A text and the edit it stands for.

    category: "facial", "characteristic", "art" or "combined".
    families: one for an atom, two or more for a combination.
    heldout: "" in training, else why it is unseen: "atoms", "combinations" or "families".
    origin: "written", "combined" or "paraphrased".
    parents: ids of a combination's atoms, or of the concept that a paraphrase says again.
    edit: attributes or filter parameters for the exact editors; empty where there are none.
    adapter: whether an adapter is collected; if not, its pairs serve the image loss alone.
    """

    concept_id: str
    text: str
    category: str
    families: tuple[str, ...]
    split: str
    heldout: str = ""
    origin: str = "written"
    parents: tuple[str, ...] = ()
    edit: dict[str, str] = field(default_factory=dict, hash=False)
    adapter: bool = True


def concept_id(text: str) -> str:
    """A file-safe name for a text: a slug and 6 hexadecimal digits of the text's hash."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].rstrip("-") or "concept"
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
