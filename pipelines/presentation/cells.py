"""Pictures in a table: the cell, its label, the words about a method."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    SCRATCH,
    SHUFFLED,
    WEIGHTS_ONLY,
)

ABOUT = {
    PREDICTION: "generated from the text",
    IDENTITY: "the source, unchanged",
    "zero LoRA": "the base translator",
    "mean adapter": "mean of all training adapters",
    "nearest text": "adapter of the closest training text",
    "ridge": "kernel ridge, text → weights",
    SHUFFLED: "generated from another concept’s text",
    "noised nearest": "nearest text plus noise",
    CEILING: "from zero LoRA, trained at length on the true edits",
    CONTINUED: "from the prediction, trained as long",
    SCRATCH: "a whole translator, trained on the true edits",
    PREDICTION + WEIGHTS_ONLY: "before the image loss",
    "1-D UNet": "the paper’s weight generator",
    "1-D UNet" + WEIGHTS_ONLY: "the paper’s, before the image loss",
}

CELL = 112


def picture_cell(
    images: Mapping[str, bytes],
    what: str,
    text: str,
    label: str,
    best: bool = False,
    stacked: bool = False,
) -> str:
    """Pictures, the label under them, a frame for the best; stacked: one above the other."""
    score = f'<div class="l1">{label}</div>'
    if not images:
        return f'<span class="none">no picture</span>{score}'
    shots = image_tags(images, what, text, CELL)
    kind = f"cell{' best' if best else ''}{' stacked' if stacked else ''}"
    return f'<div class="{kind}"><div class="shots">{shots}</div>{score}</div>'


def image_tags(images: Mapping[str, bytes], what: str, text: str, room: int) -> str:
    """`img` elements at a whole multiple of their size, side by side in `room` CSS pixels."""
    if not images:
        return '<span class="none">no picture</span>'
    size = _png_width(next(iter(images.values())))
    scale = min((room - 2 * (len(images) - 1)) // (size * len(images)), 4)
    large = scale < 1  # shrunk, not enlarged
    style = f"width: {room // len(images)}px" if large else f"--px: {size}px; --times: {scale}"
    return "".join(
        f'<img{" class=large" if large else ""} style="{style}"'
        f' alt="{escape(f"{what}: {text}, {image_id}")}"'
        f' src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for image_id, data in images.items()
    )


def _png_width(data: bytes) -> int:
    return int.from_bytes(data[16:20], "big") or 1  # IHDR comes first in every PNG
