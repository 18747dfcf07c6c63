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

    A key without its section (`block_size`), in capitals or with hyphens is found, too.
    """
    plain = typed.strip("-–—").lower().replace("-", "_")
    names = {k.lower().replace("-", "_"): k for k in known}
    if plain in names:
        return [names[plain]]
    ends = [k for name, k in names.items() if name.rpartition(".")[2] == plain.rpartition(".")[2]]
    if ends:
        return ends[:most]
    close = difflib.get_close_matches(plain, names, most, 0.7)
    if close and difflib.SequenceMatcher(None, plain, close[0]).ratio() > 0.9:
        return [names[close[0]]]
    lasts: dict[str, str] = {}
    for name, key in names.items():
        lasts.setdefault(name.rpartition(".")[2], key)
    close_lasts = difflib.get_close_matches(plain.rpartition(".")[2], lasts, most, 0.75)
    return list(dict.fromkeys([*(names[c] for c in close), *(lasts[c] for c in close_lasts)]))[
        :most
    ]


def did_you_mean(found: list[str]) -> str:
    """ "; did you mean a, b or c?", or nothing."""
    if not found:
        return ""
    *others, last = found
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
