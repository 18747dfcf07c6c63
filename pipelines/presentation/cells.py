"""Pictures in a table: the words about a method, and a picture as a page holds it.

`templates/cells.html` lays them out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.config.sections.scoring import GRADIENTS, JOINT, REPTILE
from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    SCRATCH,
    SHUFFLED,
    UNREFINED,
    WEIGHTS_ONLY,
    ZERO_REFINED,
)

ABOUT = {
    PREDICTION: "generated from the text",
    UNREFINED: "generated from the text, then Adam alone",
    ZERO_REFINED: "the base, and what the pairs say",
    IDENTITY: "the source, unchanged",
    "zero LoRA": "the base translator",
    "mean adapter": "mean of all training adapters",
    "nearest text": "adapter of the closest training text",
    "ridge": "kernel ridge, text → weights",
    SHUFFLED: "generated from another concept’s text",
    "noised nearest": "nearest text plus noise",
    JOINT: "one adapter trained on all training concepts",
    REPTILE: "a start learned for short fine-tunes",
    GRADIENTS: "A from the first gradients",
    CEILING: "from zero LoRA, trained at length on the true edits",
    CONTINUED: "from the prediction, trained as long",
    SCRATCH: "a whole translator, trained on the true edits",
    PREDICTION + WEIGHTS_ONLY: "before the image loss",
    "1-D UNet": "the paper’s weight generator",
    "1-D UNet" + WEIGHTS_ONLY: "the paper’s, before the image loss",
}


@dataclass(frozen=True)
class Shot:
    """An `img` element: one picture, whole in the page."""

    alt: str
    png: str
    """base64."""
    style: str
    large: bool
    """Shrunk, not enlarged."""


def shots(images: Mapping[str, bytes], what: str, text: str, room: int) -> list[Shot]:
    """Pictures at a whole multiple of their size, side by side in `room` CSS pixels.

    images: image_id → PNG, all of one size. what, text: method and concept, for the alt text.
    """
    if not images:
        return []
    size = png_width(next(iter(images.values())))
    scale = min((room - 2 * (len(images) - 1)) // (size * len(images)), 4)
    large = scale < 1
    style = f"width: {room // len(images)}px" if large else f"--px: {size}px; --times: {scale}"
    return [
        Shot(f"{what}: {text}, {image_id}", base64.b64encode(data).decode(), style, large)
        for image_id, data in images.items()
    ]


def png_width(data: bytes) -> int:
    """In pixels."""
    return int.from_bytes(data[16:20], "big") or 1  # IHDR comes first in every PNG
