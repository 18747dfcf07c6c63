"""What it takes to keep the books of a stage: the driver's requests of the storage beside its work.

Begun: markers and lock, listings of what is there, and one table of what its rows came to. Ended:
listings of what has been written, and its record; contents are checked where they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modeling.targets.convergence import kept_steps
from pipelines.config.schema import Config
from pipelines.plan.counts import ConceptCounts
from pipelines.plan.shapes import FLOAT, Shapes
from pipelines.plan.work import collection_steps
from pipelines.runtime.run_dir import READERS
from pipelines.runtime.stage_graph import ancestors
from pipelines.stages.adapt import scored_steps
from pipelines.stages.evaluation_tables import SCHEMAS
from pipelines.stages.weight_generators import members
from pipelines.stages.weights import PART

PAGE = 1000
"""Files in one answer of a listing."""
PAGE_SECONDS = 0.2
"""Of a page's names, beside the request: 60 pages of a store in 14 s on one of two cores
(tests/rehearsal/results.json); a disk's are there as soon as they are asked for."""
COMMAND = 30
"""Requests of a command however little it does: lock, markers, configuration, heartbeat."""
RECORD = 60
"""Bytes of a file's record, with its name."""
NOTE = 300
"""Bytes of what a row came to, with its file's name."""


@dataclass(frozen=True)
class Bookkeeping:
    """Of one stage, from its start to its end."""

    requests: int
    """One after another."""
    listed: int
    """Pages of listings among them."""
    mb: float
    """Of records and notes, written and read."""

    def seconds(self, config: Config) -> float:
        """Of the driver: actors and workers wait meanwhile."""
        p = config.plan
        one = 1 / p.files_per_s
        page = min(PAGE_SECONDS, 8 * one)
        return self.requests * one + self.listed * page + self.mb / p.write_mb_per_s


def at_once(config: Config) -> float:
    """Small files a second that a process reads by READERS threads: a disk's, or a store's."""
    p = config.plan
    return max(p.files_per_s, min(READERS * p.files_per_s, p.requests_per_s))


def books_of(config: Config, shapes: Shapes, counts: ConceptCounts) -> dict[str, Bookkeeping]:
    """By stage; the same for one that was stopped when all its rows were done."""
    files = files_of(config, shapes, counts)
    adapters, held = counts.train + counts.of("val"), counts.of(config.adapt.split)
    asked: Mapping[str, int] = {
        "adapt": 2 * held,  # which are there; what each took
        "evaluate": held + len(SCHEMAS) * held,
    }
    before: Mapping[str, int] = {
        "weights": files["gans"],
        "evaluate": files["adapt"],
        "report": files["gans"],
    }
    listed = {n: 2 * pages(files[n]) + pages(before.get(n, 0)) for n in files}
    noted: Mapping[str, int] = {
        "pairs": counts.full + counts.paired,
        "gans": adapters,
        "weights": adapters,
        "report": adapters,
    }
    return {
        name: Bookkeeping(
            COMMAND + 2 * len(ancestors(name)) + listed[name] + asked.get(name, 0),
            listed[name],
            (files[name] * RECORD + noted.get(name, 0) * NOTE) / 1e6,
        )
        for name in files
    }


def pages(files: int) -> int:
    """Requests of a listing."""
    return 1 + files // PAGE


def files_of(config: Config, shapes: Shapes, counts: ConceptCounts) -> dict[str, int]:
    """How many files each stage leaves, by what its module writes."""
    adapters, held = counts.train + counts.of("val"), counts.of(config.adapt.split)
    kept = len(kept_steps(collection_steps(config), config.gans.checkpoints))
    layout = shapes.layout
    rows = ((config.weights.concepts or counts.train) + counts.of("val")) * kept
    part = max(1, PART // (FLOAT * layout.n_blocks * layout.block_size))
    generators = len(members(config)) * (3 + bool(config.generator.image_steps))
    return {
        "concepts": 2,
        "pairs": counts.full + counts.paired + 1,
        "base": 3,
        # weights and configuration of each checkpoint; metrics
        "gans": adapters * (2 * kept + 1),
        "weights": -(-rows // part) + 2,
        "generator": generators,
        "adapt": held * (2 * len(scored_steps(config)) + 1),
        # tables of each concept and of all, controls and what they share, the nearest, about
        "evaluate": (held + 1) * (len(SCHEMAS) + 1) + 2,
        "report": 3,
    }
