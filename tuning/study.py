"""What a study is: a YAML file that names an axis, its variants, and how they are tried.

`tuning/studies/NAME.yaml`, or any path to such a file; a new study needs no code. See `Study` for
its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipelines.config.error import ConfigError
from pipelines.config.nearest import all_keys, did_you_mean, nearest
from pipelines.config.values import as_typed

STUDIES = Path(__file__).parent / "studies"
TRIALS = ("overfit", "run")
SCHEDULERS = ("none", "asha", "median")


class StudyError(RuntimeError):
    """A study cannot go on, or its trials must not be compared; the text says what to do."""


@dataclass
class Overfit:
    """Trials of the kind overfit (paper, Tables 2 and 3)."""

    concepts: list[str] = field(default_factory=lambda: ["facial", "art"])
    """A training concept's text or id; or a category, of which the seed draws one."""
    network: str = "unet"
    """Weight generator that `generator.*` starts from: the section of the run, generator or rival,
    that describes one of this kind."""
    points: int = 8
    """How often along the training the prediction is scored by L1."""


@dataclass
class Paper:
    """The paper's numbers beside ours."""

    heads: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    """Variant → one text per head."""
    note: str = ""
    """What differs."""


@dataclass
class Study:
    """One factor, its variants, and the trials that compare them.

    A trial `overfit` trains a weight generator on one concept's adapter from scratch; there is one
    per variant, concept and seed. A trial `run` branches the finished run and makes its changed
    stages again, scored on the validation concepts; there is one per variant, and its seeds are the
    pipeline's `repeats`, so that stages before the weight generator are made once.
    """

    axis: str = MISSING
    """What varies, in words."""
    why: str = MISSING
    """Why this scheduler, or none, is fair."""
    trial: str = "run"
    """overfit | run"""
    keys: list[str] = field(default_factory=list)
    """`key=value` for all variants."""
    variants: dict[str, list[str]] = field(default_factory=dict)
    """Name → `key=value` of its own."""
    space: dict[str, Any] = field(default_factory=dict)
    """Instead of variants: key → list of values; of several keys, every combination."""
    seeds: int = 3
    scheduler: str = "none"
    """none | asha | median: whether trials that lag behind are stopped early; overfit only."""
    grace: float = 0.25
    """Part of its steps that a scheduler lets every trial have."""
    concurrent: int = 1
    """Trials at once."""
    cpus: float = 1.0
    """Of a trial `overfit`; the stages of a trial `run` take what cluster.* says."""
    gpus: float = 0.0
    whole_runs: bool = False
    """Whether a variant may share no stage with the run: then it is a run of its own."""
    overfit: Overfit = field(default_factory=Overfit)
    paper: Paper = field(default_factory=Paper)


def known() -> list[str]:
    return sorted(p.stem for p in STUDIES.glob("*.yaml"))


def load_study(name: str, words: Sequence[str] = ()) -> Study:
    """A study by name or path; words (`seeds=1`) override its keys.

    Raises ConfigError for a file that is not there, or is no study.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else STUDIES / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(
            f"no study {name!r}; there are {', '.join(known())}, or give the path of a YAML file"
        )
    try:
        tree = OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path))
        tree = OmegaConf.merge(tree, OmegaConf.from_dotlist(list(words)))
        study = OmegaConf.to_object(tree)
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        line, key = str(error).splitlines()[0], getattr(error, "full_key", None) or ""
        where = f"{path.name}: {key}: " if key and key not in line else f"{path.name}: "
        raise ConfigError(where + line) from error
    assert isinstance(study, Study)
    _check(study, path.name)
    return study


def own_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are a study's keys, and those of the configuration."""
    names = {f.name for f in fields(Study)} - {"keys", "variants"}
    mine = [w for w in words if w.partition("=")[0].partition(".")[0] in names]
    return mine, [w for w in words if w not in mine]


def check_words(words: Sequence[str]) -> None:
    """ConfigError if there is no such study, or for a key that neither it nor a run has."""
    of_study, of_config = own_words(words)
    name = next(value for key, _, value in (w.partition("=") for w in words) if key == "study")
    load_study(name, [w for w in of_study if not w.startswith("study=")])
    for word in of_config:
        key = word.partition("=")[0]
        known = any(f"{key}.".startswith(f"{k}.") or k.startswith(f"{key}.") for k in all_keys())
        if key != "study" and not known:
            raise ConfigError(f"unknown key {key}{did_you_mean(nearest(key, all_keys()))}")


def _check(study: Study, name: str) -> None:
    for key, value, allowed in (
        ("trial", study.trial, TRIALS),
        ("scheduler", study.scheduler, SCHEDULERS),
        ("overfit.network", study.overfit.network, ("unet", "transformer")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}: {key}={value}: must be one of {', '.join(allowed)}")
    if not study.variants and not study.space:
        raise ConfigError(f"{name}: it has no variants and no space")
    if study.variants and study.space:
        raise ConfigError(f"{name}: give variants or a space, not both")
    for key, values in study.space.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{name}: space.{key}={values}: must be a list of values")
    for key, number in (
        ("seeds", study.seeds),
        ("concurrent", study.concurrent),
        ("overfit.points", study.overfit.points),
    ):
        if number < 1:
            raise ConfigError(f"{name}: {key}={number}: must be at least 1")
    if not 0 < study.grace <= 1:
        raise ConfigError(f"{name}: grace={study.grace}: is a part of the steps, above 0, up to 1")
    if study.cpus <= 0 or study.gpus < 0:
        raise ConfigError(f"{name}: cpus must be above 0, gpus at least 0")
    if not study.overfit.concepts:
        raise ConfigError(f"{name}: overfit.concepts must name one or more")
    if study.trial == "run" and study.scheduler != "none":
        raise ConfigError(
            f"{name}: scheduler={study.scheduler}: a trial `run` is scored only at its end, so"
            " there is nothing to stop it by; use none"
        )
    for row, values in study.paper.rows.items():
        if len(values) != len(study.paper.heads):
            raise ConfigError(
                f"{name}: paper.rows.{row} has {len(values)} values for"
                f" {len(study.paper.heads)} heads"
            )
    if len(expanded(study)) < 2:
        raise ConfigError(f"{name}: one variant compares nothing; give two or more")


def expanded(study: Study) -> dict[str, list[str]]:
    """Name → `key=value` words of every variant.

    In a space, the value of a single key is the name; of several, "key=value, …" without sections.
    """
    if study.variants:
        return study.variants
    out = {}
    for values in itertools.product(*study.space.values()):
        pairs = [(k, as_typed(v)) for k, v in zip(study.space, values, strict=True)]
        if len(pairs) == 1:
            name = pairs[0][1]
        else:
            name = ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in pairs)
        out[name] = [f"{k}={v}" for k, v in pairs]
    return out
