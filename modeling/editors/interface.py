"""What an editor takes and gives back; every editor and what calls it stand on this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from modeling.concepts.concept import Concept


class EditError(ValueError):
    """An editor that does not exist, or a concept or a source that it cannot edit."""


@dataclass(frozen=True)
class Source:
    """A picture to edit: uint8 [H, W, 3]; `avatar_seed` is set where it is a drawn portrait."""

    image_id: str
    image: np.ndarray = field(repr=False)
    avatar_seed: int | None = None

    def __post_init__(self) -> None:
        """EditError for anything else: diffusers takes four channels for latents, say."""
        kind, shape = self.image.dtype, list(self.image.shape)
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise EditError(
                f"{self.image_id!r}: a source is a uint8 array [H, W, 3], not {kind} {shape}"
                " (modeling.images.decode_image makes one of any picture)"
            )


@dataclass(frozen=True)
class EditResult:
    """The edited picture, uint8 of the source's shape, and the editor's scores of it.

    Scores are higher the better, except "change", which is `change`.
    """

    image: np.ndarray = field(repr=False)
    scores: dict[str, float]


def change(source: np.ndarray, edited: np.ndarray) -> float:
    """Mean |edited - source| / 255 of two uint8 pictures of one shape."""
    return float(np.abs(edited.astype(np.int16) - source.astype(np.int16)).mean()) / 255


class Editor(Protocol):
    """Edits pictures to one concept; the same inputs give the same pictures."""

    @property
    def name(self) -> str:
        """The editor's name in the registry."""

    def supports(self, family: str) -> bool:
        """Tell whether the editor can apply the concepts of this family."""

    def edit(self, sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        """Edit each of `sources`; a failed one gives its EditError, and the others are not lost."""
