"""What was typed, as a command and `key=value` words: other command lines' habits are understood.

`--preset demo`, `--preset=demo`, `preset demo`, `preset = demo` are all `preset=demo`. What is not
understood is a ConfigError with the line, or the nearest words, to type instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import get_type_hints

from pipelines.commandline.commands import COMMANDS, Command
from pipelines.config.error import ConfigError
from pipelines.config.load import preset_names
from pipelines.config.nearest import all_keys, did_you_mean, nearest
from pipelines.config.schema import Config

DASHES = ("-", "–", "—")
"""A hyphen, and what word processors make of two."""


def command_of(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """The command, which comes first, and the words after it; ConfigError for another one."""
    first, rest = argv[0], list(argv[1:])
    if first in COMMANDS:
        return COMMANDS[first], rest
    later = [word for word in rest if word in COMMANDS]
    if later and (first.startswith(DASHES) or "=" in first):
        others = [word for word in argv if word != later[0]]
        raise ConfigError(
            f"the command comes first: denoised-weights {' '.join([later[0], *others])}"
        )
    like = nearest(first, COMMANDS)
    if not like and "=" in first:
        raise ConfigError(
            f"{first!r} is no command, which comes first: denoised-weights run {' '.join(argv)}"
        )
    raise ConfigError(
        f"unknown command {first!r}{did_you_mean(like)} (denoised-weights --help lists them)"
    )


def key_words(command: Command, words: Sequence[str]) -> list[str]:
    """`key=value` words, flags of the command and words without a key as they are."""
    command = _submitted(command, words)
    known = {*command.words, *(all_keys() if command.keys else ())}
    left, out = list(words), []
    while left:
        word = left.pop(0)
        if word in command.flags:
            out.append(word)
        elif word.startswith(DASHES) and len(word.strip("-–—")) > 0:
            out.append(_option(command, word.lstrip("-–—"), known, left))
        elif "=" in word and not word.startswith("="):
            out.append(word)
        elif word in known and left and (left[0].startswith("=") or "=" not in left[0]):
            out.append(f"{word}={_value(left)}")
        elif command.free and not word.startswith("="):
            out.append(word)
        else:
            raise ConfigError(_not_understood(word, known))
    _check_own(command, out)
    return out


def _submitted(command: Command, words: Sequence[str]) -> Command:
    """`submit` takes the words of the command that it is to run, too."""
    if command.name != "submit":
        return command
    typed = "\n".join(words)
    named = re.search(r"(?:^|\n)-*command(?:\n?=\n?|\n)(\S+)", typed)
    run = COMMANDS.get(named[1]) if named else None
    if run is None or not run.words:
        return command
    words_of_both = {**run.words, **command.words}
    return replace(command, words=words_of_both, flags=run.flags, free=run.free)


def _check_own(command: Command, words: Sequence[str]) -> None:
    """ConfigError unless the command's own words are whole, and for words that it does not take."""
    given = {k: value for k, equals, value in (w.partition("=") for w in words) if equals}
    usage = " ".join(f"{word}=…" for word in command.required)
    for word in command.required:
        if not given.get(word):
            raise ConfigError(
                f"{command.name} needs {word} ({command.words[word]}):"
                f" denoised-weights {command.name} {usage}"
            )
    for key in given:
        if not command.keys and key not in command.words:
            raise ConfigError(
                f"unknown word {key}{did_you_mean(nearest(key, command.words))}"
                f" ({command.name} has: {', '.join(command.words)})"
            )


def _option(command: Command, name: str, known: set[str], left: list[str]) -> str:
    """`--name=value`, or `--name value` with the value taken from `left`."""
    key, equals, value = name.partition("=")
    key = key if key in known else key.replace("-", "_")
    if equals:
        return f"{key}={value}"
    if f"--{name}" in command.flags:
        return f"--{name}"
    if left and not left[0].startswith("--") and left[0].partition("=")[0] not in known - {key}:
        return f"{key}={_value(left)}"
    if key in known and _is_switch(key):
        return f"{key}=true"
    like = nearest(key, known)
    if key not in known:
        raise ConfigError(f"unknown key {key}{did_you_mean(like)}")
    raise ConfigError(f"--{name} needs a value: {key}=VALUE")


def _value(left: list[str]) -> str:
    """The value that follows, after a "=" that stands alone or clings to it."""
    value = left.pop(0)
    if value == "=" and left:
        return left.pop(0)
    return value.removeprefix("=")


def _is_switch(key: str) -> bool:
    kind: object = Config
    for part in key.split("."):
        kind = get_type_hints(kind).get(part)
    return kind is bool


def _not_understood(word: str, known: set[str]) -> str:
    start = f"{word!r} is not of the form key=value"
    if word in preset_names():
        return f"{start}; did you mean preset={word}?"
    if word in COMMANDS:
        return f"{start}: one command at a time, or `run` for all stages"
    key, colon, value = word.partition(":")
    if colon and key in known:
        return f"{start}; did you mean {key}={value}?"
    like = [f"{key}=…" for key in nearest(word, known)]
    return start + did_you_mean(like)
