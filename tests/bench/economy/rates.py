"""Processor seconds of one thread for each thing that the budget is spent on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import process_time

import torch

from pipelines.config.derived import resolve_editor
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.concepts import load_concepts
from pipelines.stages.editing import EditConcept
from pipelines.stages.gans import CollectAdapters
from tests.bench.economy.training import Training
from tests.bench.economy.variants import OWN, VARIANTS, Trainings

FEW = 20
"""Steps of each phase in the training that is timed."""


def seconds(call: Callable[[], object], count: int) -> float:
    """Processor seconds of one of `count`, the first call's own left out."""
    call()
    begun = process_time()
    for _ in range(2):
        call()
    return (process_time() - begun) / (2 * count)


def rates(config: Config, run_dir: RunDir, trainings: Trainings) -> dict[str, float]:
    """Of an adapter, an edit, a step on weights and one on the image loss."""
    concepts = {c.concept_id: c for c in load_concepts(run_dir)}
    some = trainings.with_adapter[: config.gans.concepts_per_batch]
    collect = CollectAdapters(to_dict(config), run_dir, config.gans.steps)
    torch.set_num_threads(1)
    editing = EditConcept(to_dict(config), run_dir, resolve_editor(config))
    images = editing.train(config.images.paired)
    g = config.generator
    config = replace(config, generator=replace(g, steps=FEW, image_steps=FEW))
    pools, few = trainings.pools(VARIANTS[OWN])
    training = Training(config, run_dir, pools, few)

    def five() -> None:
        for _ in range(5):
            training.step()

    on_weights = seconds(five, 5)
    while training.training.done < FEW:
        training.step()
    return {
        "adapter": seconds(lambda: list(collect.train(some)), len(some)),
        "edit": seconds(
            lambda: [editing.edit(concepts[i], images) for i in some], len(some) * len(images)
        ),
        "weight step": on_weights,
        "image step": seconds(five, 5),
    }
