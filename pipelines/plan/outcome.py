"""What a plan says: its rows, its sums and what would make it cheaper."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One stage of a plan."""

    stage: str
    work: str
    counts: dict[str, float]
    """What is done, how often."""
    flops: float
    stored_bytes: float
    devices: int
    """GPUs in use; where there are none, actors or workers on CPU cores."""
    busy_hours: float
    """Device-hours of work."""
    wall_hours: float
    held_hours: float
    """Device-hours of the whole cluster while the stage runs: what is paid for."""
    money: float | None
    basis: dict[str, list[str]]
    """Where rates come from, what takes longest first → the names of the rates."""
    notes: list[str] = field(default_factory=list)
    books: dict[str, float] = field(default_factory=dict)
    """requests, mb and seconds of the driver's bookkeeping; seconds are in wall_hours."""


@dataclass(frozen=True)
class Alternative:
    """Another configuration, by the same model."""

    words: str
    what: str
    held_hours: float
    of_total: float
    """Its device-hours, as a part of the plan's."""
    quality: str
    """What it does to the result, where that was measured; no part of the model."""


@dataclass(frozen=True)
class Plan:
    """All rows, and what follows from them."""

    rows: list[Row]
    device: str
    """GPU | actor: what device-hours are of."""
    devices: int
    busy_hours: float
    wall_hours: float
    held_hours: float
    flops: float
    stored_bytes: float
    money: float | None
    dominant: str
    alternatives: list[Alternative] = field(default_factory=list)
    """The three that save most."""
    each: str = "stage"
    """What a row is of: a stage, a variant of a study, a command."""
