"""The Markdown files as tests read them: fenced blocks, inline code, links, headings.

A fenced block is run by test_commands.py unless an HTML comment in the line above it says why not:

    <!-- not run: needs a cluster -->

and it finds a finished run in runs/demo if the comment is `<!-- on a finished run -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
"""What the site is made of."""
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]

FENCE = re.compile(r"^(`{3,})([\w-]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"^<!--(.*)-->\n\Z", re.MULTILINE)
NOT_RUN, FINISHED = "not run:", "on a finished run"


@dataclass(frozen=True)
class Block:
    """A fenced block. `reason`: why it is not run; "" if it is."""

    file: str
    line: int
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str:
        return self.note.removeprefix(NOT_RUN).strip() if self.note.startswith(NOT_RUN) else ""

    @property
    def finished(self) -> bool:
        """Whether it is about a finished run, in runs/demo."""
        return self.note == FINISHED

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(file: Path) -> list[Block]:
    text = file.read_text()
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        comment = COMMENT.search(before)
        note = comment[1].strip() if comment else ""
        line = before.count("\n") + 1
        found.append(Block(file.name, line, match[2], match[3], note))
    return found


def prose(file: Path) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", file.read_text())


def inline_code(file: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(file))]


def links(file: Path) -> list[str]:
    """Targets of links and images, but those to other sites."""
    text = re.sub(r"`[^`]*`", "", prose(file))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(file: Path) -> set[str]:
    """The headings' anchors, as code hosts and the site make them."""
    heads = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
