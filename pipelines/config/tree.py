"""A configuration as a tree of keys: merged strictly, written, read back.

Unknown keys and wrong types raise ConfigError with one line for the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.config.error import ConfigError
from pipelines.config.nearest import all_keys, did_you_mean, nearest
from pipelines.config.schema import Config
from pipelines.config.values import in_words, literal


def merge(tree: DictConfig, more: dict[str, Any], what: str, key: str = "") -> DictConfig:
    """`more`, whose texts are literal, over `tree`; `what`, and `key` in it, are for errors."""
    unknown = _unknown_key(Config, more, "")
    if unknown:
        raise ConfigError(unknown)
    try:
        merged = OmegaConf.merge(tree, OmegaConf.create(literal(more)))
    except (OmegaConfBaseException, TypeError) as error:
        # OmegaConf does not always name the key, such as that of a list inside a list
        name = (getattr(error, "full_key", None) or key).partition("[")[0]
        wrong = f"{name} must be {in_words(_type_of(name))}" if name else str(error).splitlines()[0]
        raise ConfigError(f"{what}: {wrong}") from error
    assert isinstance(merged, DictConfig)
    return merged


def to_config(tree: DictConfig) -> Config:
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    return config


def _type_of(key: str) -> Any:
    """The schema's type of a dotted key; of the mapping, for a key inside one."""
    kind: Any = Config
    for part in key.split("."):
        if is_dataclass(kind):
            kind = get_type_hints(kind)[part]
    return kind


def _unknown_key(schema: type, given: Any, prefix: str) -> str:
    """A sentence about the first key that the schema does not have, or ''."""
    if not isinstance(given, dict):
        return "" if not prefix else f"{prefix[:-1]} is a section: give {prefix}KEY=value"
    known = {f.name: f for f in fields(schema)}
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(
                nearest(f"{prefix}{key}", [*(f"{prefix}{k}" for k in known), *all_keys()])
            )
            there = ", ".join(known)
            return (
                f"unknown key {prefix}{key}{hint} ({prefix[:-1] or 'the top level'} has: {there})"
            )
        factory = known[key].default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            problem = _unknown_key(factory, value, f"{prefix}{key}.")
            if problem:
                return problem
    return ""


def to_yaml(config: Config) -> str:
    tree = _with_run_dir(config)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)


def from_yaml(text: str) -> dict[str, Any]:
    """Inverse of `to_yaml`, of older files too; ConfigError."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise ConfigError("is no mapping of keys")
    return tree


class _Dumper(yaml.SafeDumper):
    """A text that YAML, of any version, could take for something else stands in quotes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", text) and text.lower() not in WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _text)
WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null", "none")


def to_dict(config: Config) -> dict[str, Any]:
    return _with_run_dir(config)


def _with_run_dir(config: Config) -> dict[str, Any]:
    """The default's ${preset} is the only one that means something; a loaded one has none left."""
    tree = asdict(config)
    if tree["run_dir"] == Config.run_dir:
        tree["run_dir"] = Config.run_dir.replace("${preset}", config.preset)
    return tree


MAPPINGS = {
    *("runs", "lora.ranks"),
    *(f"editing.{k}" for k in ("models", "extras", "exponents", "least", "steps", "guidance")),
    *(f"editing.{k}" for k in ("loras", "schedulers")),
    *(f"editing.{k}" for k in ("image_guidance", "strength", "prompts", "instructions")),
    "cluster.editor_actors",
    "cluster.editor_gpus",
    "plan.evaluations",
}
"""Keys whose values are mappings with keys of the user's."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of a nested configuration; those of MAPPINGS whole."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) and name not in MAPPINGS
        out |= flat(value, f"{name}.") if nested else {name: value}
    return out


def from_dict(tree: dict[str, Any]) -> Config:
    """Inverse of `to_dict`, strict."""
    return to_config(merge(OmegaConf.structured(Config), tree, "saved configuration"))
