"""What follows from the pictures and their split, said before anything starts or is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from pipelines.config.derived import fresh_pairs
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished, followers
from pipelines.runtime.stage_table import SOURCES
from pipelines.stages.pairs import INDEX
from pipelines.stages.source_list import listing_of
from pipelines.stages.sources import COMPARED, split_images

NEEDS = f"compares {COMPARED} pictures or more"
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
    _check_held(config, stages, held, f"images.count={count} leaves")
    if "evaluate" in stages and config.evaluate.kid and fresh_pairs(config):
        images = config.evaluate.images
        if images < COMPARED:
            raise ConfigError(
                f"evaluate.images={images}: evaluate.kid {NEEDS}: give evaluate.images={COMPARED}"
                " or more, or evaluate.kid=false"
            )


def check_edited(config: Config, run: RunDir, stages: Collection[str]) -> None:
    """As `check_split`, by what is left once some pictures could not be read or edited."""
    if not run.exists(INDEX):  # made before there was one
        return
    rows = run.read_table(INDEX, ["test", "val", "dropped"]).to_pylist()
    # concepts without an adapter have training pictures alone
    full = [row for row in rows if not row["dropped"] and row["test"]]
    if full:
        held = {split: min(row[split] for row in full) for split in ("test", "val")}
        reasons = run.url("errors/pairs.parquet")
        _check_held(config, stages, held, f"what could be edited ({reasons}) leaves")


def _check_held(
    config: Config, stages: Collection[str], held: Mapping[str, int], leaves: str
) -> None:
    few = f"{leaves} {held['test']} for the test"
    enough = f"give images.count={10 * COMPARED} or more"
    scarce = held["test"] < COMPARED and not fresh_pairs(config)
    if "evaluate" in stages and config.evaluate.kid and scarce:
        raise ConfigError(f"{few}, and evaluate.kid {NEEDS}: {enough}, or evaluate.kid=false")
    if "compare" in stages and scarce:
        raise ConfigError(f"{few}, and compare {NEEDS}: {enough}")
    by_features = not config.gans.steps and config.gans.pilot_score == "fd"
    if "gans" in stages and by_features and held["val"] < COMPARED:
        raise ConfigError(
            f"{leaves} {held['val']} for validation, and gans.pilot_score=fd {NEEDS}: {enough}, or"
            " gans.pilot_score=l1, or gans.steps"
        )
