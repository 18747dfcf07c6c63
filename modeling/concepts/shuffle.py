"""A shuffle by hash: the same on every machine and version of every library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def shuffled(items: Iterable[T], salt: str) -> list[T]:
    """The items in an order that `salt` and their own texts decide."""
    return sorted(items, key=lambda item: digest(f"{salt}/{item}"))


def digest(text: str) -> bytes:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()
