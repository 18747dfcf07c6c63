"""The tables that stage `compare` writes, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

FOLDER = "comparison"
ROWS = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("finetune", pa.string()),  # own or published (stages/contenders.py); "": in both
        ("learned", pa.int32()),  # of the steps, learned ones
        ("epoch", pa.int32()),
        ("epochs", pa.int32()),  # the method's budget
        ("step", pa.int32()),
        ("images", pa.int32()),  # trained on
        ("l1", pa.float64()),  # mean |difference|, images in [-1, 1]
        ("kid", pa.float64()),
        ("fd", pa.float64()),  # where n allows it
        ("n", pa.int32()),  # images scored
        ("judged", pa.string()),
        ("size", pa.int32()),
        ("features", pa.string()),
        ("distance", pa.string()),  # what fd is called
        ("device", pa.string()),
        ("trainable", pa.int64()),
        ("total", pa.int64()),
        ("training_flops", pa.float64()),  # up to this epoch
        ("image_flops", pa.float64()),  # of one picture
        ("seconds", pa.float64()),  # of training up to this epoch, from the serial pass
    ]
)
PICTURES = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("method", pa.string()),
        ("epoch", pa.int32()),
        ("l1", pa.float64()),  # over all of the concept's unseen images
        ("image_id", pa.string()),
        ("image", pa.binary()),
    ]
)


def of_regime(rows: Iterable[Mapping[str, Any]], regime: str) -> list[Mapping[str, Any]]:
    """The rows of one regime, with those of methods that it makes no difference to."""
    return [r for r in rows if (r.get("finetune") or regime) == regime]
