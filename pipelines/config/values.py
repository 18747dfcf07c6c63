"""A typed `key=value` word as a value of its key's type.

A text is what was typed: no YAML, which makes 202411251830 of 20241125_1830, 7 of 007, true of on,
and cuts "run #1" at the sign. Lists and mappings are YAML's, their texts as they stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config

TRUE = ("true", "yes", "on", "y", "1")
FALSE = ("false", "no", "off", "n", "0")


def typed(key: str, text: str) -> dict[str, Any]:
    """The tree {a: {b: value}} of `a.b=text`; ConfigError if the value is not of the key's type.

    What follows a mapping's name is a key in it, with its dots. Keys that do not exist stay, with
    their text, for `merge` to name.
    """
    parts, kind = key.split("."), _kinds(key)
    at = next((i for i, k in enumerate(kind) if get_origin(k) is dict), None)
    if at is not None and at < len(parts) - 1:
        # kind: of the mapping and of no part after it
        parts = [*parts[: at + 1], ".".join(parts[at + 1 :])]
        wanted = get_args(kind[at])[1]
    else:
        wanted = kind[-1] if len(kind) == len(parts) else None
    value: Any
    try:
        value = text if wanted is None else _value(wanted, text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: cannot be read as YAML") from error
    except ValueError as error:
        raise ConfigError(f"{key}={text}: {key} must be {in_words(wanted)}") from error
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def as_typed(value: Any) -> str:
    """The text that `typed` reads as this value: a number, a text, a list or a mapping."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _kinds(key: str) -> list[Any]:
    """The type of each part of a dotted key, as far as the schema goes."""
    out: list[Any] = []
    kind: Any = Config
    for part in key.split("."):
        if not is_dataclass(kind) or part not in (hints := get_type_hints(kind)):
            break
        kind = hints[part]
        out.append(kind)
    return out


def _value(kind: Any, text: str) -> Any:
    if kind in SCALARS:
        return SCALARS[kind](text)
    try:
        # a loader that takes every scalar for a text: `_of` reads it by its type
        tree = yaml.load(text, Loader=yaml.BaseLoader)
    except RecursionError as error:  # [[[[…
        raise yaml.YAMLError from error
    return _section(kind, tree) if is_dataclass(kind) else _of(kind, tree)


def _section(kind: Any, tree: Any) -> Any:
    """Of `images={size: 64}`; what is no mapping, or no key, stays for `merge` to name."""
    if not isinstance(tree, dict):
        return tree
    hints = get_type_hints(kind)
    read = {k: _section if is_dataclass(hints.get(k)) else _of for k in tree}
    return {k: read[k](hints[k], v) if k in hints else v for k, v in tree.items()}


def _of(kind: Any, tree: Any) -> Any:
    """A value whose scalars are texts yet, by its type; ValueError."""
    if kind in SCALARS:
        if not isinstance(tree, str):
            raise ValueError
        return SCALARS[kind](tree)
    if get_origin(kind) is list:
        if not isinstance(tree, list):
            raise ValueError
        return [_of(get_args(kind)[0], item) for item in tree]
    if not isinstance(tree, dict) or not all(isinstance(k, str) for k in tree):
        raise ValueError
    return {k: _of(get_args(kind)[1], v) for k, v in tree.items()}


def _whole(text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9][0-9_]*", text):
        return int(text.replace("_", ""))  # 007, too
    if re.fullmatch(r"[+-]?0[xob][0-9a-fA-F]+", text):
        return int(text, 0)
    raise ValueError


def _number(text: str) -> float:
    return float(text.replace(".nan", "nan").replace(".inf", "inf"))  # YAML's, too


def _boolean(text: str) -> bool:
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError
    return text.lower() in TRUE


SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _whole,
    float: _number,
    bool: _boolean,
}


def literal(tree: Any) -> Any:
    """The same for OmegaConf, which would take a text's ${…} for a key or a variable."""
    if isinstance(tree, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree)
    if isinstance(tree, dict):
        return {k: literal(v) for k, v in tree.items()}
    return [literal(v) for v in tree] if isinstance(tree, list) else tree


def in_words(kind: Any) -> str:
    """A key's type as an error or an explanation names it."""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[str]: "a list such as [a, b]",
        list[int]: "a list of whole numbers such as [1, 2]",
        list[list[str]]: "a list of lists such as [[a, b], [c, d]]",
        dict[str, int]: "a mapping to whole numbers such as {a: 1}",
        dict[str, float]: "a mapping to numbers such as {a: 0.5}",
        dict[str, str]: "a mapping to texts such as {a: text}",
    }
    # a section read whole fails at one of its keys
    return words.get(kind, "a mapping of its keys")
