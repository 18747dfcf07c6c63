"""A configuration as a tree of keys: merged strictly, written, read back.

Unknown keys and wrong types raise ConfigError with one line for the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.config.error import ConfigError
from pipelines.config.nearest import all_keys, did_you_mean, nearest
from pipelines.config.schema import Config


def merge(tree: DictConfig, more: Any, what: str, key: str = "") -> DictConfig:
    unknown = _unknown_key(Config, OmegaConf.to_container(more), "")
    if unknown:
        raise ConfigError(unknown)
    try:
        merged = OmegaConf.merge(tree, more)
    except (OmegaConfBaseException, TypeError) as error:
        # OmegaConf does not always name the key, such as that of a list inside a list
        name = (getattr(error, "full_key", None) or key).partition("[")[0]
        wrong = f"{name} must be {in_words(_type_of(name))}" if name else str(error).splitlines()[0]
        raise ConfigError(f"{what}: {wrong}") from error
    assert isinstance(merged, DictConfig)
    return merged


def to_config(tree: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, Config)
    return config


def _type_of(key: str) -> Any:
    """The schema's type of a dotted key; of the mapping, for a key inside one."""
    kind: Any = Config
    for part in key.split("."):
        if is_dataclass(kind):
            kind = get_type_hints(kind)[part]
    return kind


def in_words(kind: Any) -> str:
    """A key's type as an error or an explanation names it."""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[str]: "a list such as [a, b]",
        list[int]: "a list of whole numbers such as [1, 2]",
        list[list[str]]: "a list of lists such as [[a, b], [c, d]]",
        dict[str, int]: "a mapping to whole numbers such as {a: 1}",
        dict[str, float]: "a mapping to numbers such as {a: 0.5}",
        dict[str, str]: "a mapping to texts such as {a: text}",
    }
    return words[kind]


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
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def to_dict(config: Config) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(tree, dict)
    return {str(k): v for k, v in tree.items()}


MAPPINGS = {
    "lora.ranks",
    *(f"editing.{k}" for k in ("models", "extras", "exponents", "least", "steps", "guidance")),
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
    return to_config(
        merge(OmegaConf.structured(Config), OmegaConf.create(tree), "saved configuration")
    )
