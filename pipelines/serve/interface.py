"""What the routes and the models behind them agree on. No Ray and no torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_request import Request


@dataclass(frozen=True)
class Limits:
    """What a request may hold. `size` is the side of the pictures that the translator edits."""

    max_text: int
    max_image_bytes: int
    max_pixels: int
    size: int
    t_min: int
    t_max: int
    t: int
    """The run's own."""
    steps: int
    """The run's own."""
    max_steps: int
    max_pairs: int
    max_train_steps: int
    train_steps: int
    """The run's own fine-tune."""
    learned_steps: int
    """Of these, learned ones."""
    max_upload_bytes: int
    """Of all pictures of a fine-tune."""
    editors: tuple[str, ...]
    avatars: bool
    """Whether the run's pictures are drawn portraits."""
    max_ongoing: int
    """Requests at work."""
    max_queued: int
    """Requests that wait; further ones get 503."""


class Backend(Protocol):
    """What the routes need, wherever it runs.

    Names of adapters: pipelines/use/adapter_names.py. Methods raise UnknownAdapterError,
    OtherModelError, FinetuneError and BusyError.
    """

    async def about(self) -> Mapping[str, Any]:
        """What is being served."""

    async def files(self, name: str) -> AdapterFiles: ...

    async def translate(
        self, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, Sequence[str]]:
        """Edited uint8 [H, W, 3] by adapters with their strengths, and the adapters' full names."""

    async def containing(self, words: str, count: int) -> Sequence[Known]:
        """Training concepts in whose text this is."""

    async def nearest(self, text: str, count: int) -> Sequence[Near]:
        """The nearest training concepts, the nearest first."""

    async def submit(
        self, job: str, request: Request, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """job: a new name, 16 hexadecimal digits."""

    async def status(self, job: str) -> dict[str, Any]: ...

    async def cancel(self, job: str) -> dict[str, Any]: ...
