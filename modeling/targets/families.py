"""The families of target networks by name: what a run adapts is one of them.

A new family is a TargetNetwork with its TargetConfig and one line in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from modeling.targets.network import TargetConfig, TargetError, TargetNetwork
from modeling.targets.resnet_generator import ResNetGenerator, ResNetGeneratorConfig
from modeling.targets.translator import Translator, TranslatorConfig


@dataclass(frozen=True)
class Family:
    """A config class, the network it describes, and the fields that are not a user's to choose."""

    # Any: frozen dataclasses do not match a Protocol as a type, and each has its own fields
    config: type[Any]
    network: Callable[[Any], TargetNetwork]
    fixed: Mapping[str, object] = field(default_factory=dict)


FAMILIES = {
    "e2gan": Family(TranslatorConfig, Translator),
    # PEFT has no LoRA for transposed convolutions
    "resnet": Family(ResNetGeneratorConfig, ResNetGenerator, {"transposed": False}),
}
FIRST = "e2gan"
"""The family of the runs whose description does not name one."""


def target_config(family: str, settings: Mapping[str, object], text_dim: int) -> TargetConfig:
    """The shape that `settings` describe, of which a family reads the fields that it has.

    text_dim: dimension of the prompt's tokens. TargetError: no such family, or impossible values.
    """
    kind = _family(family)
    known = {f.name for f in fields(kind.config)}
    given = {**settings, "text_dim": text_dim, **kind.fixed}
    config: TargetConfig = kind.config(**{k: v for k, v in given.items() if k in known})
    return config


def describe(config: TargetConfig) -> dict[str, object]:
    """The shape and its family's name, as JSON can hold them."""
    return {"family": _name(config), **config.to_dict()}


def from_description(about: Mapping[str, object]) -> TargetConfig:
    """Inverse of `describe`; TargetError if the family is unknown or the values impossible."""
    values = dict(about)
    config: TargetConfig = _family(str(values.pop("family", FIRST))).config(**values)
    return config


def make_target(config: TargetConfig) -> TargetNetwork:
    """An untrained network of this shape, with BatchNorms."""
    return FAMILIES[_name(config)].network(config)


def frozen_target(config: TargetConfig) -> TargetNetwork:
    """A network in its frozen-statistics form, ready for `load_state_dict` of a trained base."""
    return make_target(config).freeze_statistics().eval()


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise TargetError(f"family={name}: must be one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _name(config: TargetConfig) -> str:
    return next(name for name, family in FAMILIES.items() if type(config) is family.config)
