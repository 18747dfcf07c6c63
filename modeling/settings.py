"""From what a user may set to what a part takes: fields of the same name are handed over."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def taken(kind: type[T], settings: object, **others: Any) -> T:
    """A `kind`, a dataclass, of the fields that it shares with `settings`, and of `others`.

    A field that neither has keeps its default, or is a TypeError.
    """
    shape: Any = kind
    names = [f.name for f in fields(shape)]
    shared = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return kind(**shared | others)
