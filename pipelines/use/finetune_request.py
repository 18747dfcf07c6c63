"""A fine-tune as a client of the service asks for it, and the states it goes through. No torch."""

from __future__ import annotations

from dataclasses import dataclass

QUEUED, RUNNING, FINISHED = "queued", "running", "finished"
FAILED, CANCELLED = "failed", "cancelled"
ENDED = (FINISHED, FAILED, CANCELLED)


class FinetuneError(ValueError):
    """A fine-tune that cannot be done; the text is for the client."""


class BusyError(RuntimeError):
    """As many wait as may."""


@dataclass(frozen=True)
class Request:
    """`editor` is "" where pairs are uploaded."""

    concept: str
    seed: int
    t: int
    steps: int
    """Of the weight generator."""
    train_steps: int
    editor: str
    images: int
    """Trained on, of those that the editor makes."""
