"""What `evaluate` writes: scores, pictures, and how near predictions are to training adapters."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import OWN

FOLDER = "evaluation"

ROWS = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("finetune", pa.string()),  # own or published (contenders.py)
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


def load_rows(run_dir: RunDir, regime: str = OWN) -> list[dict[str, Any]]:
    """The scores of one regime (contenders.py); a run from before there were two has the first.

    ArtifactError if there are none.
    """
    rows = run_dir.read_table(f"{FOLDER}/rows.parquet").to_pylist()
    return [r for r in rows if (r.get("finetune") or OWN) == regime]
