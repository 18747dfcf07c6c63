"""Editors of few steps, read from recipes.yaml: a method's code with a published model's settings.

A new one is a few lines there, no code. Imports nothing heavy: the command line checks names by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "recipes.yaml"


@dataclass(frozen=True)
class Recipe:
    """One entry of recipes.yaml."""

    method: str
    """The editor (modeling/editors/registry.py) whose code runs."""
    architecture: str
    """Of the denoiser, by its name in costs.py."""
    options: Mapping[str, Any]
    """Of EditorOptions, where a user gives no other."""
    evaluations: float
    """Of the denoiser, for one picture."""
    side: int
    """Pixels of the side that the model was trained at."""
    licence: str
    parameters: float
    """Weights of all its networks."""


@cache
def recipes() -> dict[str, Recipe]:
    """By the editor's name."""
    found = yaml.safe_load(FILE.read_text())
    return {name: Recipe(**entry) for name, entry in found.items()}
