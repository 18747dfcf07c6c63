"""What a run answers. No torch in here: the service's HTTP part reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter in PEFT's format, and what it belongs to."""

    weights: bytes
    config: bytes
    layout: str
    base: str
    name: str


class Known(NamedTuple):
    """A concept that the weight generator has learned from."""

    concept_id: str
    text: str


class Near(NamedTuple):
    """A concept that the weight generator has learned from, and how near its text is."""

    concept_id: str
    text: str
    similarity: float
    """Cosine of the two texts' embeddings."""
