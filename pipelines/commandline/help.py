"""The help of the command line: all of it, one command's, the keys'.

Made of the stage table, the commands' table and the schema's own words.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

from pipelines.commandline.commands import COMMANDS, OTHERS, Command, is_stage
from pipelines.commandline.words import Key, keys, of_section, sections
from pipelines.config.error import ConfigError
from pipelines.config.load import preset_names
from pipelines.config.nearest import did_you_mean, nearest
from pipelines.config.tree import flat
from pipelines.runtime.stage_table import BY_NAME, SIDE_STAGES, STAGES, Stage

EXIT_CODES = {
    0: "done",
    1: "a stage failed; of `submit`, the job did",
    2: "the command or the configuration is wrong; nothing was started",
    129: "the terminal was closed: the same command goes on",
    130: "stopped by Ctrl-C: the same command goes on; of `submit`, the job goes on or was stopped",
    143: "ended by SIGTERM: the same command goes on",
}


def overview() -> str:
    """What `--help` prints."""
    later = [c for c in OTHERS if c.name != "run"]
    lines = [
        "usage: denoised-weights COMMAND [key=value …]",
        "",
        "Learns to generate LoRA weights for an image-to-image GAN from a text concept.",
        "",
        "stages, in order (each reads and writes run_dir, and is skipped when its work is done):",
        *_table((s.name, s.summary) for s in STAGES),
        "",
        "other commands:",
        *_table(
            [("run", COMMANDS["run"].summary), *((s.name, s.summary) for s in SIDE_STAGES)], 14
        ),
        *_table(((c.name, _with_words(c)) for c in later), 14),
        "",
        "  denoised-weights COMMAND --help   what it reads and writes, and its keys",
        "  denoised-weights keys [SECTION]   every key, with type, default and meaning",
        "",
        f"presets:   {', '.join(preset_names())} (preset=demo is the default)",
        "keys:      preset run_dir seed editor text_encoder images.source images.path",
        "           weights.block_size weights.grouping … (--preset demo means preset=demo)",
        "",
        "examples:",
        "  denoised-weights run preset=demo",
        "  denoised-weights run preset=demo images.source=folder images.path=photos",
        "  denoised-weights serve run_dir=runs/demo",
        "",
        "exit codes:",
        *_table(((str(code), what) for code, what in EXIT_CODES.items()), 5),
    ]
    return "\n".join(lines)


def of_command(command: Command, preset: str, values: dict[str, Any]) -> str:
    """What `COMMAND --help` prints.

    values: a configuration, nested: what the keys are with this preset and the other words given.
    """
    lines = [f"usage: denoised-weights {command.name}{_usage(command)}", "", _sentence(command)]
    if is_stage(command.name):
        lines += ["", *_files(BY_NAME[command.name])]
    if command.words or command.flags:
        own = [(f"{word}=…", about) for word, about in command.words.items()]
        lines += ["", "words of this command:", *_table([*own, *command.flags.items()], 14)]
    if command.example:
        lines += ["", f"example: {command.example}"]
    if not command.keys:
        return "\n".join(lines)
    if not is_stage(command.name):
        more = "its keys: denoised-weights keys" + (
            f" {command.name}" if command.name in sections() else ""
        )
        return "\n".join([*lines, "", more])
    shown = _of_stage(BY_NAME[command.name])
    lines += ["", f"keys that decide its result (preset={preset}; their defaults in brackets):"]
    lines += _explained(shown, flat(values))
    lines += ["", "keys of every stage: denoised-weights keys run_dir, redo, cluster …"]
    return "\n".join(lines)


def of_keys(names: list[str]) -> str:
    """What `keys` prints: of all sections, or of these; ConfigError for one that there is not."""
    every = sections()
    if not names:
        blocks = [_block(section, about) for section, about in every.items()]
        return "\n\n".join(blocks)
    blocks = []
    for name in names:
        if name in every:
            blocks.append(_block(name, every[name]))
        elif of_section(name):
            blocks.append(_block(name, ""))
        elif name in keys():
            blocks.append("\n".join(_explained([keys()[name]], {})))
        else:
            like = nearest(name, [*filter(None, every), *keys()])
            there = ", ".join(filter(None, every))
            raise ConfigError(f"no section or key {name!r}{did_you_mean(like)} (sections: {there})")
    return "\n\n".join(blocks)


def _block(section: str, about: str) -> str:
    head = f"{section}: {about}" if about else section or "of the whole run:"
    return "\n".join([*textwrap.wrap(head, _width()), *_explained(of_section(section), {})])


def _of_stage(stage: Stage) -> list[Key]:
    """The keys that a stage's result depends on."""
    names = stage.sections
    return [
        key
        for key in keys().values()
        if any(key.name == name or key.name.startswith(f"{name}.") for name in names)
    ]


def _files(stage: Stage) -> list[str]:
    reads = ", ".join(f"{n} ({_places(BY_NAME[n])})" for n in stage.needs)
    return [
        f"reads:   {reads or 'nothing'}",
        f"writes:  {_places(stage)}; bad rows and why: errors/{stage.name}.parquet",
    ]


def _places(stage: Stage) -> str:
    return ", ".join(o if "." in o else f"{o}/" for o in stage.outputs)


def _explained(shown: list[Key], values: dict[str, Any]) -> list[str]:
    """key = value, type, default, and the words below."""
    out = []
    for key in shown:
        value = values.get(key.name, key.default)
        default = "" if value == key.default else f", default {typed(key.default)}"
        out.append(f"  {key.name}={typed(value)}  ({key.kind}{default})")
        out += textwrap.wrap(key.about, _width(), initial_indent=" " * 6, subsequent_indent=" " * 6)
    return out


def typed(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(typed(v) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {typed(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _usage(command: Command) -> str:
    named = {word: f"{word}=…" for word in command.words}
    own = "".join(
        f" {word}" if key in command.required else f" [{word}]" for key, word in named.items()
    )
    if command.free:
        own = f" {command.free} …{own}"
    flags = "".join(f" [{flag}]" for flag in command.flags)
    section = " [SECTION …]" if command.name == "keys" else ""
    return own + flags + section + (" [key=value …]" if command.keys else "")


def _with_words(command: Command) -> str:
    words = " ".join(f"{word}=…" for word in command.words)
    return f"{command.summary}{': ' if words else ''}{words}"


def _sentence(command: Command) -> str:
    return command.summary[0].upper() + command.summary[1:] + "."


def _table(rows: Iterable[tuple[str, str]], width: int = 10) -> list[str]:
    """Two columns; a name that is too long has its words on the same line all the same."""
    out = []
    for name, about in rows:
        first = f"  {name:<{width}} "
        hang = " " * (width + 3)
        out += textwrap.wrap(about, _width(), initial_indent=first, subsequent_indent=hang)
    return out


def _width() -> int:
    return max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
