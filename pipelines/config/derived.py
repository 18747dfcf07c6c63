"""What follows from a configuration."""

from __future__ import annotations

from modeling.editors.registry import EXACT
from modeling.precision import resolved
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


def precision_of(config: Config, stage: str) -> str:
    """What `precision` comes to in a stage: auto is TF32 where its processes have GPUs."""
    c = config.cluster
    gpus = c.gpu_training if stage in ("base", "generator") else c.gpus_per_actor
    return resolved(config.precision, "cuda" if gpus else "cpu")
