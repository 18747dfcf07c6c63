"""Commands on a run, most of them on a finished one: `denoised-weights predict|translate|status …`.

Each is a module with `run(given, free, flags) -> int`: its words by name, the words without a
key, and whether JSON is wanted on standard output. What people read goes to standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module


def verb(command: str, words: Sequence[str]) -> int:
    """The command's exit status; raises what the parts of pipelines/use raise."""
    given = {key: value for key, equals, value in (w.partition("=") for w in words) if equals}
    free = [w for w in words if "=" not in w and not w.startswith("--")]
    module = import_module(f"pipelines.verbs.{command}")
    return int(module.run(given, free, {w for w in words if w.startswith("--")}))
