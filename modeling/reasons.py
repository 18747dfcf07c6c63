"""What an error says, in one line, and the same in equal runs."""

from __future__ import annotations

import re

ADDRESS = re.compile(r" (?:object )?at 0x[0-9a-fA-F]+")
"""Where an object lies in memory, as Python writes it: another place in every process."""


def one_line(error: Exception | str) -> str:
    """Without line breaks and memory addresses; an exception's type where it has no text."""
    text = " ".join(str(error).split())
    return ADDRESS.sub("", text) or type(error).__name__
