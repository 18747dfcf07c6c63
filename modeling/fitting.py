"""How many of something a device's memory holds at once: tried, halved, and remembered.

Remembered for a device and what runs on it, in a file of the user's cache, so that the next
process and the next run begin with what went well. Deleted, it is found again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST = {"cuda": 64, "cpu": 8}
"""Where nobody says how many: what still gains on a GPU; on CPU cores more gain nothing."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What the plain RuntimeErrors of PyTorch's CPU allocators and of cuBLAS say."""


def memory_file() -> Path:
    """$XDG_CACHE_HOME/denoised-weights/fitting.json, by default in ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "denoised-weights" / "fitting.json"


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    )


class Fit:
    """How many at once: `given`, or with 0 what fits; fewer as soon as memory runs out.

    what: names the work, its sizes included. What is remembered is for given=0 alone. most: by the
    device's type, where to begin.
    """

    def __init__(
        self, what: str, given: int, device: torch.device, most: Mapping[str, int] = MOST
    ) -> None:
        self.device, self.key = device, f"{_name(device)}, {what}"
        self.remembers = not given
        self.size = given or most.get(device.type, most["cuda"])
        self.held = 0
        if self.remembers:
            self.size = min(self.size, _remembered().get(self.key, self.size))

    def pieces(
        self, items: Sequence[T], call: Callable[[list[T]], list[R]]
    ) -> Iterator[tuple[list[T], list[R] | None]]:
        """Some items and what `call` makes of them, in order; None where one alone does not fit."""
        rest, again = list(items), False
        while rest:
            some = rest[: self.size]
            made: list[R] | None = None
            try:
                made = call(some)
            except Exception as error:
                if not out_of_memory(error):
                    raise
            if made is None:  # outside the handler, whose traceback would keep the tensors alive
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(some) <= self.held and not again:
                    again = True  # so many have fitted: another process had the memory
                    continue
                if len(some) > 1:
                    self._halve(len(some))
                    continue
            else:
                self.held = max(self.held, len(some))
            yield some, made
            rest, again = rest[len(some) :], False

    def _halve(self, failed: int) -> None:
        self.size = failed // 2
        if self.remembers:
            _remember(self.key, self.size)


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    about = torch.cuda.get_device_properties(device)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def _remembered() -> dict[str, int]:
    try:
        known: Any = json.loads(memory_file().read_text())
        return {str(key): int(size) for key, size in known.items() if int(size) >= 1}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or damaged: found again


def _remember(key: str, size: int) -> None:
    """Whole or not at all: several processes of a machine write it."""
    file = memory_file()
    with suppress(OSError):  # a home that cannot be written: this process knows it all the same
        file.parent.mkdir(parents=True, exist_ok=True)
        known = _remembered()
        known[key] = min(size, known.get(key, size))
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".fitting")
        with os.fdopen(handle, "w") as part:
            json.dump(known, part, indent=1, sort_keys=True)
        os.replace(name, file)
