"""What follows from a configuration."""

from __future__ import annotations

from modeling.editors.registry import EXACT
from pipelines.config.schema import Config


def exact_editor(config: Config) -> bool:
    """Whether the editor draws the true edit of any picture, at next to no cost."""
    return resolve_editor(config) in EXACT


def fresh_pairs(config: Config) -> bool:
    """Whether unseen pairs can be made at will: only an exact editor does so at no cost."""
    return config.images.source == "avatars" and exact_editor(config)


def resolve_editor(config: Config) -> str:
    if config.editor != "auto":
        return config.editor
    return "avatar" if config.images.source == "avatars" else "filter"
