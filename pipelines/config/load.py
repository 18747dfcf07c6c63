"""The words of a command line to a checked configuration.

A preset is a YAML file in presets/; it is data, no code asks for its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipelines.config.checks import check
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.config.tree import merge, to_config

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
    schema = OmegaConf.structured(Config)
    values = OmegaConf.load(PRESETS / f"{preset}.yaml")
    assert isinstance(values, DictConfig)
    # what a preset changes when the pictures are photographs, which allow art filters only
    photographs = values.pop("photographs", OmegaConf.create())
    tree = merge(schema, values, f"preset {preset}")
    if words.get("images.source") == "folder":
        tree = merge(tree, photographs, f"preset {preset}, photographs")
    tree = merge(tree, OmegaConf.create({"preset": preset}), "preset")
    for key, value in words.items():
        try:
            # `key=` is an empty text, not YAML's null
            more = OmegaConf.from_dotlist([f"{key}={value or repr('')}"])
        except Exception as error:  # of many types: YAML's, OmegaConf's, its grammar's
            raise ConfigError(f"{key}={value}: cannot be read as YAML") from error
        tree = merge(tree, more, f"{key}={value}", key)
    config = to_config(tree)
    check(config)
    return config
