"""Which concepts are compared, what is trained on each, and at which epochs it is scored."""

from __future__ import annotations

import random

from pipelines.comparison.methods import scratch_methods
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import heldout
from pipelines.stages.concepts import load_concepts

ADAPTING = "adapting"
"""Kind of the jobs that run all methods which adapt the base; others are named by their method."""


def chosen(config: Config, run_dir: RunDir) -> tuple[list[str], list[str]]:
    """concept_ids compared, and those of them on which methods are trained from scratch, too.

    Drawn by the seed before anything is trained, evenly from the held-out sets.
    """
    ids = set(heldout(run_dir, config.adapt.split))
    by_set: dict[str, list[str]] = {}
    for concept in load_concepts(run_dir):
        if concept.concept_id in ids:
            by_set.setdefault(concept.heldout, []).append(concept.concept_id)
    draw = random.Random(f"compare {config.seed}")
    for members in by_set.values():
        members.sort()
        draw.shuffle(members)
    longest = max(map(len, by_set.values()), default=0)
    order = [m[i] for i in range(longest) for m in by_set.values() if i < len(m)]
    c = config.compare
    order = order[: c.concepts or None]
    return order, order[: c.scratch_concepts]


def jobs(config: Config, run_dir: RunDir) -> list[str]:
    """kind/concept_id/repeat of everything to train, the longest first."""
    everything, scratch = chosen(config, run_dir)
    methods = scratch_methods(config)
    long = [
        f"{m}/{i}/{r}"
        for i in scratch
        for m in methods
        for r in range(config.compare.scratch_repeats)
    ]
    return long + [f"{ADAPTING}/{i}/{r}" for r in range(config.repeats) for i in everything]


def scored_epochs(
    config: Config, run_dir: RunDir, concept_id: str, repeat: int, epochs: int, start: bool
) -> list[int]:
    """All of compare.score_at for the first seed where a curve is drawn, else the end points.

    start: whether there is something to score before the first epoch.
    """
    ends = {0, epochs} if start else {epochs}
    if not repeat and concept_id in chosen(config, run_dir)[1]:
        ends |= {e for e in config.compare.score_at if 0 < e < epochs}
    return sorted(ends)
