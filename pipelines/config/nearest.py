"""What somebody who typed something that there is not may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pipelines.config.schema import Config


@cache
def all_keys() -> tuple[str, ...]:
    """Every dotted key, in the schema's order; a mapping with the user's keys counts as one."""
    return tuple(_keys_of(Config(), ""))


def _keys_of(section: Any, prefix: str) -> Iterable[str]:
    for f in fields(section):
        value = getattr(section, f.name)
        nested = is_dataclass(value)
        yield from _keys_of(value, f"{prefix}{f.name}.") if nested else (f"{prefix}{f.name}",)


def nearest(typed: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Those of `known` that are most like `typed`, the likeliest first, none if none is like it.

    Dotted names are compared within their section first; a key without its section (`block_size`),
    in capitals or with hyphens is found, too.
    """
    plain = typed.strip("-–—").lower().replace("-", "_")
    section, _, last = plain.rpartition(".")
    names = {k.lower().replace("-", "_"): k for k in known}
    if plain in names:
        return [names[plain]]
    inside = {n.rpartition(".")[2]: k for n, k in names.items() if n.rpartition(".")[0] == section}
    close = difflib.get_close_matches(last, inside, most)
    if close and difflib.SequenceMatcher(None, last, close[0]).ratio() > 0.85:
        close = close[:1]
    if close:
        return [inside[c] for c in close]
    ends = [k for name, k in names.items() if name.rpartition(".")[2] == last]
    if ends:
        return ends[:most]
    lasts: dict[str, str] = {}
    for name, key in names.items():
        lasts.setdefault(name.rpartition(".")[2], key)
    return [lasts[c] for c in difflib.get_close_matches(last, lasts, most, 0.75)]


def did_you_mean(found: list[str]) -> str:
    """ "; did you mean a, b or c?", or nothing."""
    if not found:
        return ""
    *others, last = found
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
