"""The target networks by family: what a run adapts is one of them.

A new family is a TargetNetwork with one line here, and its shape in shapes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeling.targets.network import TargetNetwork
from modeling.targets.resnet_generator import ResNetGenerator
from modeling.targets.shapes import TargetConfig, family_of
from modeling.targets.translator import Translator

# Any: each takes the config of its own family
NETWORKS: dict[str, Callable[[Any], TargetNetwork]] = {
    "e2gan": Translator,
    "resnet": ResNetGenerator,
}


def make_target(config: TargetConfig) -> TargetNetwork:
    """An untrained network of this shape, with BatchNorms."""
    return NETWORKS[family_of(config)](config)


def frozen_target(config: TargetConfig) -> TargetNetwork:
    """A network in its frozen-statistics form, ready for `load_state_dict` of a trained base."""
    return make_target(config).freeze_statistics().eval()
