"""What `evaluate` writes: scores, pictures, and how near predictions are to training adapters."""

from __future__ import annotations

import pyarrow as pa

FOLDER = "evaluation"

ROWS = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),
        ("seconds", pa.float64()),  # of training so far, prediction included
        ("l1", pa.float64()),  # mean |difference|, images in [-1, 1]
        ("kid", pa.float64()),
        ("fd", pa.float64()),
        ("n", pa.int32()),  # images scored for l1 and kid
    ]
)

PICTURES = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("method", pa.string()),
        ("step", pa.int32()),
        ("image_id", pa.string()),
        ("image", pa.binary()),
    ]
)

MEMORY = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("nearest", pa.string()),  # concept_id of the nearest training adapter
        ("distance", pa.float64()),  # to it, root mean square of normalised weights
        ("pictures", pa.float64()),  # L1 between its pictures and the prediction's
        ("nearest_l1", pa.float64()),  # L1 of its pictures
        ("n", pa.int32()),
    ]
)

SCHEMAS = {"rows": ROWS, "pictures": PICTURES, "memory": MEMORY}
