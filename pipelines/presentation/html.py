"""Jinja2 templates into HTML: one environment for the pages of all rooms.

A template is named by its path below `pipelines/`, as a module is, and stands beside the Python
that prepares its values. Autoescape is on for every file: only `Markup` passes unchanged, and that
is made by a template or by Matplotlib. A value that a template names and does not get is an error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.presentation.cells import ABOUT, shots
from pipelines.presentation.curves import COLOURS, variable
from pipelines.presentation.words import (
    count,
    duration,
    fixed,
    plural,
    signed,
    sooner,
    span,
    unseen,
)
from pipelines.stages.contenders import PREDICTION

ROOT = Path(__file__).parents[1]


def render(name: str, **values: Any) -> Markup:
    """The template of this path below `pipelines/`, as HTML that may stand in another."""
    return Markup(_environment().get_template(name).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (count, duration, fixed, plural, shots, signed, sooner, span, unseen, variable):
        environment.filters[word.__name__] = word
    environment.globals |= {"about": ABOUT, "colours": COLOURS, "prediction": PREDICTION}
    return environment
