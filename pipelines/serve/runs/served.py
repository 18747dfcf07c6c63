"""Which runs are served, under which names, and what a request to one may hold.

No Ray and no torch in here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
ONLY = "default"
"""The name of a run that was given without one."""
FORMER = 20
"""Run directories that are remembered when they are no longer served."""


class UnknownRunError(LookupError):
    """No run is served under this name."""


class RunRefusedError(ValueError):
    """A run that cannot be served, or a name that cannot go; the text says why."""


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


OF_THE_SERVICE = (
    *("max_text", "max_image_bytes", "max_pixels", "max_pairs", "max_train_steps"),
    *("max_upload_bytes", "max_ongoing", "max_queued"),
)
"""Those of them that are the same for all runs: keys of serve.*."""


class Model(NamedTuple):
    """What predicts and edits: a run directory, as it was when its model had this digest."""

    uri: str
    digest: str
    """Of base, weights and generator (pipelines/use/saved_run.py)."""

    @property
    def key(self) -> str:
        """12 hexadecimal digits."""
        return hashlib.sha256("\n".join(self).encode()).hexdigest()[:12]


def place_of(model: Model, name: str) -> str:
    """Where a translator keeps an adapter of a model, among those of all."""
    return f"{model.key}/{name}"


@dataclass(frozen=True)
class Served:
    """A run under its name."""

    name: str
    model: Model
    limits: Limits


@dataclass(frozen=True)
class Table:
    """All runs that are served, the first for requests that name none."""

    runs: tuple[Served, ...]
    former: tuple[str, ...] = ()
    """Run directories that were served before."""

    def of(self, name: str) -> Served:
        """UnknownRunError if there is none; "" = the first."""
        for served in self.runs:
            if name in ("", served.name):
                return served
        raise UnknownRunError("no run is served under this name: GET /v1/runs has their names")

    @property
    def models(self) -> list[Model]:
        return [served.model for served in self.runs]

    def with_run(self, new: Served) -> Table:
        """`new` in the place of the one of its name, or as the last."""
        names = [served.name for served in self.runs]
        runs = [new if served.name == new.name else served for served in self.runs]
        return self._following(runs if new.name in names else [*runs, new])

    def without(self, name: str) -> Table:
        """RunRefusedError for the first, which answers those that name none; UnknownRunError."""
        gone = self.of(name)
        if gone == self.runs[0]:
            raise RunRefusedError("the first run answers requests that name none: it stays")
        return self._following([served for served in self.runs if served != gone])

    def _following(self, runs: list[Served]) -> Table:
        here = {served.model.uri for served in runs}
        left = [s.model.uri for s in self.runs if s.model.uri not in here]
        former = [uri for uri in self.former if uri not in {*here, *left}]
        return Table(tuple(runs), tuple([*former, *left][-FORMER:]))


def named_runs(given: Config) -> Mapping[str, str]:
    """Run directories by name, as the command or the Serve config gave them. ConfigError."""
    for name in given.runs:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"runs: the name {name!r} must be small letters, digits, - and _, 40 at most"
            )
    return given.runs or {ONLY: given.run_dir}
