"""What follows from the pictures and their split, said before anything starts or is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from pipelines.config.derived import fresh_pairs
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished, followers
from pipelines.runtime.stage_table import SOURCES
from pipelines.stages.source_list import listing_of
from pipelines.stages.sources import COMPARED, split_images

READING = ("concepts", "pairs")
"""Stages that begin with the folder of pictures."""


def check_pictures(config: Config, run: RunDir, stages: Collection[str]) -> None:
    """Raise ConfigError, with the keys, where these stages could not be done on the pictures."""
    check_split(config, stages)
    if config.images.source != "folder":
        return
    again = followers(config.redo)
    if any(name in stages and (name in again or not finished(run, name)) for name in READING) and (
        "pairs" in again or not run.exists(SOURCES)
    ):
        listing_of(config)


def check_split(config: Config, stages: Collection[str]) -> None:
    """Raise ConfigError where a stage compares more pictures than the split leaves it."""
    count = config.images.count
    held = Counter(split_images([str(i) for i in range(count)], config.seed).values())
    few = f"images.count={count} leaves {held['test']} for the test"
    enough = f"give images.count={10 * COMPARED} or more"
    needs = f"compares {COMPARED} pictures or more"
    fresh = fresh_pairs(config)
    if "evaluate" in stages and config.evaluate.kid:
        if fresh and config.evaluate.images < COMPARED:
            raise ConfigError(
                f"evaluate.images={config.evaluate.images}: evaluate.kid {needs}: give"
                f" evaluate.images={COMPARED} or more, or evaluate.kid=false"
            )
        if not fresh and held["test"] < COMPARED:
            raise ConfigError(f"{few}, and evaluate.kid {needs}: {enough}, or evaluate.kid=false")
    if "compare" in stages and not fresh and held["test"] < COMPARED:
        raise ConfigError(f"{few}, and compare {needs}: {enough}")
    by_features = not config.gans.steps and config.gans.pilot_score == "fd"
    if "gans" in stages and by_features and held["val"] < COMPARED:
        raise ConfigError(
            f"images.count={count} leaves {held['val']} for validation, and gans.pilot_score=fd"
            f" {needs}: {enough}, or gans.pilot_score=l1, or gans.steps"
        )
