"""The pages of the documentation that the schema and the commands' table write.

`python -m pipelines.commandline.pages` brings docs/ up to date: the tables in command-line.md, and
a page of keys for each file of sections.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.commandline.commands import COMMANDS, Command, is_stage
from pipelines.commandline.help import EXIT_CODES, typed
from pipelines.commandline.words import Key, of_section, sections
from pipelines.config.schema import Config

DOCS = Path(__file__).parents[2] / "docs"
KEYS = {
    "data": "Keys: pictures, editors, concepts",
    "training": "Keys: translator, adapters, weight generator",
    "finetune": "Keys: refiner, fine-tune",
    "scoring": "Keys: evaluation, comparison, report",
    "operation": "Keys: service, cluster, plan",
}
"""File of pipelines/config/sections → title of its page."""
GENERATED = "<!-- made by python -m pipelines.commandline.pages: change the schema's own words -->"


def pages() -> dict[str, str]:
    """File name in docs/ → its text."""
    made = {f"keys-{name}.md": _keys(name, title) for name, title in KEYS.items()}
    text = (DOCS / "command-line.md").read_text()
    tables = {"commands": _commands(), "exit codes": _exit_codes()}
    for name, table in tables.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        inside = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        text = inside.sub(lambda _: start + table + end, text)  # noqa: B023 (called at once)
    return made | {"command-line.md": text}


def _keys(name: str, title: str) -> str:
    """A page; the keys outside sections stand on the first."""
    first = name == next(iter(KEYS))
    lines = [f"# {title}", "", GENERATED, "", *_others(name)]
    for section, about in sections().items():
        if not section and not first:
            continue
        kind = type(getattr(Config(), section)) if section else Config
        if section and kind.__module__.rpartition(".")[2] != name:
            continue
        lines += ["", f"## {section or 'The whole run'}", ""]
        lines += [f"{about}", ""] if about else []
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key) for key in of_section(section)]
    return "\n".join(lines) + "\n"


def _others(name: str) -> list[str]:
    links = [f"[{t.removeprefix('Keys: ')}](keys-{n}.md)" for n, t in KEYS.items() if n != name]
    return [
        "`denoised-weights keys [SECTION]` prints the same;"
        " `denoised-weights STAGE --help` has those that a stage depends on, with the preset's"
        f" values. Other pages: {', '.join(links)}; [the command line](command-line.md)."
    ]


def _row(key: Key) -> str:
    default = typed(key.default)
    cells = (f"`{key.name}`", key.kind, f"`{default}`" if default else "", key.about)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _commands() -> str:
    rows = [
        f"| {_name(c)} | {c.summary[0].upper()}{c.summary[1:]} | {_own(c)} |"
        for c in COMMANDS.values()
    ]
    return "\n".join(["| command | what it does | its own words |", "|---|---|---|", *rows, ""])


def _name(command: Command) -> str:
    return f"`{command.name}`" + (" (a stage)" if is_stage(command.name) else "")


def _own(command: Command) -> str:
    own = [f"`{word}=…` {about}" for word, about in command.words.items()]
    return "; ".join([*own, *(f"`{flag}` {about}" for flag, about in command.flags.items())])


def _exit_codes() -> str:
    rows = [f"| {code} | {what} |" for code, what in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows, ""])


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main()
