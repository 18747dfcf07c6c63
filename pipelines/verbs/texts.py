"""The texts of a command: those that were typed, and those of a file, one a line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.config.error import ConfigError
from pipelines.use.wording import WordingError, worded

LONGEST = 60
"""Characters of a folder's name."""


def texts_of(command: str, given: Mapping[str, str], free: Sequence[str]) -> list[str]:
    """Without space around them, each once, in their order.

    ConfigError if there are none, a file cannot be read, or one says nothing.
    """
    texts = list(free)
    if "texts" in given:
        file = Path(given["texts"]).expanduser()
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"texts={file}: cannot be read as UTF-8: {error}") from error
        texts += [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError(
            f'{command} needs a text: denoised-weights {command} "indigo hair" …, or texts=FILE'
        )
    try:
        return list(dict.fromkeys(worded(text) for text in texts))
    except WordingError as error:
        raise ConfigError(str(error)) from error


def whole_number(command: str, given: Mapping[str, str], key: str, default: int, least: int) -> int:
    """ConfigError if it is none, or below `least`."""
    value = given.get(key, str(default))
    if not re.fullmatch(r"\d{1,18}", value) or int(value) < least:
        raise ConfigError(f"{command}: {key}={value}: must be a whole number, at least {least}")
    return int(value)


def folder_names(texts: Sequence[str]) -> list[str]:
    """A name for each that every file system takes, all different, in any letters."""
    out: list[str] = []
    taken: set[str] = set()
    for text in texts:
        plain = unicodedata.normalize("NFC", text).casefold()
        name = re.sub(r"[^\w]+", "-", plain).strip("-_")[:LONGEST].strip("-_") or "adapter"
        number, unique = 1, name
        while unique in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique)
        out.append(unique)
    return out
