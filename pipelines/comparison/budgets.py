"""How long each method trains, and the seconds that are reported for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modeling.targets.recipe import Recipe, collection_recipe, finetune_recipe
from pipelines.comparison.methods import AS_LONG, E2GAN
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.stages.contenders import IDENTITY, PREDICTION, SHUFFLED


def steps_of(epochs: int, images: int, batch: int) -> int:
    """Optimiser steps of so many epochs."""
    return math.ceil(epochs * images / batch)


def finetune(config: Config, epochs: int, images: int) -> Recipe:
    """The fine-tune of stage `adapt`, of so many epochs."""
    recipe = finetune_recipe(config.adapt)
    return replace(recipe, steps=steps_of(epochs, images, recipe.batch))


def e2gan(config: Config, images: int) -> Recipe:
    """The collection's recipe, for compare.e2gan_epochs."""
    return collection_recipe(
        config.gans, steps_of(config.compare.e2gan_epochs, images, config.gans.batch)
    )


def spent(row: Mapping[str, Any], seconds: Mapping[str, float]) -> float:
    """Seconds of training up to a row's epoch, its prediction included.

    seconds: an epoch of each method, and `predict`, as in times.json.
    """
    method = row["method"]
    if method == IDENTITY:
        return 0.0
    predicted = seconds["predict"] if method in (PREDICTION, SHUFFLED, AS_LONG) else 0.0
    if method in BASELINES:
        return row["epoch"] * seconds[method]
    each = seconds[E2GAN] if method in (E2GAN, AS_LONG) else seconds["finetune"]
    return predicted + row["epoch"] * each
