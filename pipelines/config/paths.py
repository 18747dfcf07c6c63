"""Keys that may hold a path: `~` is one's home in each, and a URI has two slashes.

A shell expands `~` at the beginning of a word alone, not in `images.path=~/photos`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from pipelines.config.error import ConfigError

PATHS = (
    "run_dir",
    "text_encoder",
    "images.path",
    "editing.models",
    "editing.extras",
    "editing.loras",
    "editing.clip",
    "editing.identity",
    "llm.encoder",
    "llm.writer.model",
    "llm.paraphraser.model",
    "evaluate.features_path",
)
"""Of the models each is a folder or a hub id, which never begins with ~."""


def check_uri(key: str, text: str) -> None:
    """ConfigError for a URI with one slash, which would be a folder of this machine."""
    if found := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/(?!/)", text):
        rest = text[found.end() :]
        slashes = ":///" if found[1] == "file" else "://"
        raise ConfigError(f"{key}={text}: did you mean {key}={found[1]}{slashes}{rest}?")


def expand(config: Any) -> None:
    """Put homes in the place of ~ and ~user, in all of PATHS."""
    for key in PATHS:
        section, name = _place(config, key)
        value = getattr(section, name)
        if isinstance(value, dict):
            setattr(section, name, {k: os.path.expanduser(v) for k, v in value.items()})
        else:
            setattr(section, name, os.path.expanduser(value))


def paths_of(config: Any) -> Iterator[tuple[str, str]]:
    """Key and value of all that may be a path of something to read."""
    for key in PATHS:
        if key == "run_dir":
            continue
        section, name = _place(config, key)
        value = getattr(section, name)
        if isinstance(value, dict):
            yield from ((f"{key}.{k}", v) for k, v in value.items())
        elif value:
            yield key, value


def _place(config: Any, key: str) -> tuple[Any, str]:
    """The section that has the key, and the key's name there."""
    *sections, name = key.split(".")
    for part in sections:
        config = getattr(config, part)
    return config, name
