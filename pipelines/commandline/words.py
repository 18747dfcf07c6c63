"""What the schema says of each key: its type, its default and the words that explain it.

Read from the source of the dataclasses, where a string after a field is its explanation: nothing
is written twice.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pipelines.config.schema import Config
from pipelines.config.values import in_words


@dataclass(frozen=True)
class Key:
    """One key. kind: its type in words. about: "" where the name says all there is to say."""

    name: str
    kind: str
    default: Any
    about: str


@cache
def keys() -> dict[str, Key]:
    """Every key by its dotted name, in the schema's order."""
    return {key.name: key for key in _keys_of(Config(), "")}


@cache
def sections() -> dict[str, str]:
    """Section → the first words of its docstring; "" for the keys outside sections."""
    config = Config()
    named = {
        f.name: _first(type(getattr(config, f.name)))
        for f in fields(Config)
        if is_dataclass(getattr(config, f.name))
    }
    return {"": "", **named}


def of_section(name: str) -> list[Key]:
    """The keys of a section, those of its own sections included."""
    if not name:
        return [key for key in keys().values() if "." not in key.name]
    return [key for key in keys().values() if key.name.startswith(f"{name}.")]


def _keys_of(section: Any, prefix: str) -> Iterator[Key]:
    kind = type(section)
    hints, about = get_type_hints(kind), explained(kind)
    for f in fields(kind):
        value, name = getattr(section, f.name), f"{prefix}{f.name}"
        if is_dataclass(value):
            yield from _keys_of(value, f"{name}.")
        else:
            yield Key(name, in_words(hints[f.name]), value, about.get(f.name, ""))


def explained(kind: type) -> dict[str, str]:
    """Field → the string that follows it in the class, or in the nearest base that has one."""
    out: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                out[ast.unparse(field.target)] = _one_line(str(text.value))
    return out


def _first(kind: type) -> str:
    return _one_line((kind.__doc__ or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())
