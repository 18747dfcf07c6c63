"""torch.compile of the passes that a training repeats, where the process is told to.

Like torch's own switches it holds for the process. Sums are ordered otherwise, dropout draws what
it draws without; a compiled function serves one set of shapes, and is compiled again for others.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., torch.Tensor])

BACKEND = "inductor"
_on = False


class CompilerError(RuntimeError):
    """A machine lacks what torch.compile needs; the message says what."""


def use(on: bool, device: torch.device | str) -> None:
    """From here on in this process; CompilerError without a compiler for the device."""
    global _on
    if on:
        _check(torch.device(device).type)
        import torch._inductor.config as settings

        settings.fallback_random = True  # else dropout would draw otherwise
    _on = on


def is_on() -> bool:
    return _on


def compiled(function: F) -> F:
    """The function, or module, itself, unless the process compiles."""
    if not _on:
        return function
    return cast(F, torch.compile(function, dynamic=False, backend=BACKEND))


def _check(kind: str) -> None:
    without = "or train without it (cluster.compile=false)"
    if kind == "cuda" and not importlib.util.find_spec("triton"):
        raise CompilerError(f"torch.compile needs triton on a GPU (pip install triton), {without}")
    given = os.environ.get("CXX")
    names = [given] if given else ["g++", "clang++"]
    if kind == "cpu" and not any(shutil.which(name) for name in names):
        raise CompilerError(
            f"torch.compile needs a C++ compiler on a CPU ({' or '.join(names)} is not there:"
            f" apt install g++), {without}"
        )
