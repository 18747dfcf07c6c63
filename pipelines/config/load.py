"""The words of a command line to a checked configuration.

A preset is a YAML file in presets/; it is data, no code asks for its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipelines.config.checks import check
from pipelines.config.error import ConfigError
from pipelines.config.paths import expand
from pipelines.config.schema import Config
from pipelines.config.tree import from_yaml, merge, to_config
from pipelines.config.values import typed

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(overrides: Sequence[str]) -> Config:
    """Defaults ← preset ← `key=value` words; raises ConfigError."""
    words: dict[str, str] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key in words:
            raise ConfigError(f"{key} is given twice")
        words[key] = value
    preset = words.get("preset", Config.preset)
    if preset not in preset_names():
        raise ConfigError(f"preset={preset}: no such preset; there are {', '.join(preset_names())}")
    values = from_yaml((PRESETS / f"{preset}.yaml").read_text())
    # what a preset changes when the pictures are photographs, which allow art filters only
    photographs = values.pop("photographs", {})
    if words.get("images.source") == "folder":
        values = _over(values, photographs)
    values["preset"] = preset
    given = {key: typed(key, text) for key, text in words.items()}
    tree = OmegaConf.structured(Config)
    try:
        # at once: OmegaConf takes 30 ms for each
        tree = merge(tree, reduce(_over, given.values(), values), f"preset {preset}")
    except ConfigError:
        tree = merge(tree, values, f"preset {preset}")
        for key, more in given.items():  # which of them it was
            tree = merge(tree, more, f"{key}={words[key]}", key)
        raise
    config = to_config(tree)
    expand(config)
    check(config)
    return config


def _over(tree: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both, section by section; where both have a value, that of `more`."""
    both = {k: _over(tree[k], v) for k, v in more.items() if _nested(tree.get(k), v)}
    return {**tree, **more, **both}


def _nested(old: Any, new: Any) -> bool:
    return isinstance(old, dict) and isinstance(new, dict)
