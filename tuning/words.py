"""`key=value` words: what a finished run was made with, and what a study changes of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.training import Generator
from pipelines.config.tree import flat, to_dict
from pipelines.config.values import as_typed
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import made_with


def keys_of(source: RunDir) -> list[str]:
    """`key=value` for what a run's configuration has other than its preset."""
    config = to_dict(made_with(source))
    words = [f"preset={config['preset']}"]
    if config["images"]["source"] == "folder":  # presets say something else of photographs
        words += ["images.source=folder", f"images.path={config['images']['path']}"]
    preset = flat(to_dict(load_config(words)))
    other = {k: v for k, v in flat(config).items() if v != preset[k] and k != "run_dir"}
    return merged(words, [f"{k}={as_typed(v)}" for k, v in other.items()])


def merged(*words: Sequence[str]) -> list[str]:
    """`key=value` words of several lists; of one key, the last counts."""
    return list({w.partition("=")[0]: w for w in itertools.chain(*words)}.values())


def generator_words(config: Config, kind: str) -> list[str]:
    """`generator.key=value` of the section, generator or rival, that is of this kind.

    Raises ConfigError if neither is.
    """
    section = next((s for s in (config.generator, config.rival) if s.kind == kind), None)
    if section is None:
        raise ConfigError(
            f"this configuration describes no {kind}: give rival.kind={kind} and its sizes"
        )
    return [f"generator.{f.name}={as_typed(getattr(section, f.name))}" for f in fields(Generator)]
