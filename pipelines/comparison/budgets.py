"""How long each method trains, and the seconds that are reported for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modeling.targets.recipe import Recipe, collection_recipe
from pipelines.comparison.methods import AS_LONG, E2GAN, E2GAN_BY_OURS
from pipelines.config.schema import Config
from pipelines.config.sections.finetune import Adapt
from pipelines.config.sections.scoring import BASELINES
from pipelines.stages.contenders import IDENTITY, OWN, PREDICTION, SHUFFLED, UNREFINED


def steps_of(epochs: int, images: int, batch: int) -> int:
    """Optimiser steps of so many epochs."""
    return math.ceil(epochs * images / batch)


def finetune(adapt: Adapt, epochs: int, images: int) -> Adapt:
    """The fine-tune of stage `adapt`, of so many epochs."""
    return replace(adapt, steps=steps_of(epochs, images, adapt.batch))


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
    if method in BASELINES:
        return row["epoch"] * seconds[method]
    predicted = seconds["predict"] if method in PREDICTED else 0.0
    learned = row["learned"]
    each = seconds[_timed_as(row)]
    adam = row["epoch"] * (1 - learned / row["step"]) if learned else row["epoch"]
    return predicted + learned * seconds["learned step"] + adam * each


PREDICTED = (PREDICTION, SHUFFLED, AS_LONG, UNREFINED)
"""Those whose start costs a prediction."""


def _timed_as(row: Mapping[str, Any]) -> str:
    """The key of times.json that holds an epoch of a method that adapts the base."""
    if row["method"] in (E2GAN, AS_LONG):
        return E2GAN
    if row["method"] == E2GAN_BY_OURS:
        return E2GAN_BY_OURS
    return "finetune" if row["finetune"] == OWN else "finetune, published"
