"""What trials leave in a run directory: `tuning/trials/KEY/`, rows and a record.

KEY is a hash of what decides the result, so a finished trial is found again when the study is
started again, by another study that has the same trial, and after the folder was moved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.runtime.run_dir import RunDir, parquet_bytes

FOLDER = "tuning/trials"
ROWS = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("heldout", pa.string()),  # of a trial `run`
        ("method", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),  # of the overfitting, or of the fine-tune
        ("seconds", pa.float64()),  # of training so far
        ("l1", pa.float64()),  # mean |difference| on unseen images in [-1, 1]
        ("gap", pa.float64()),  # part of the way from zero LoRA to the trained adapter that is left
        ("rmse", pa.float64()),  # of the weights, in deviations of their tensors
        ("kid", pa.float64()),
        ("fd", pa.float64()),
        ("n", pa.int32()),  # images for l1 and kid
        ("fd_n", pa.int32()),  # images for fd
    ]
)


def write(
    run_dir: RunDir, key: str, rows: Sequence[dict[str, Any]], about: dict[str, Any], end: str
) -> None:
    """end: "finished" | "stopped" by the scheduler | "" while the trial goes on."""
    table = pa.Table.from_pylist(list(rows), ROWS)
    files = {
        "rows.parquet": parquet_bytes(table),
        "record.json": json.dumps({**about, "end": end}, indent=2, sort_keys=True).encode(),
    }
    run_dir.write_files(f"{FOLDER}/{key}", files, last="record.json")


def read(run_dir: RunDir, key: str) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """Rows and record; None where the trial has left none."""
    if not run_dir.exists(f"{FOLDER}/{key}/record.json"):
        return None
    rows = run_dir.read_table(f"{FOLDER}/{key}/rows.parquet").to_pylist()
    return rows, dict(run_dir.read_json(f"{FOLDER}/{key}/record.json"))


def mark_stopped(run_dir: RunDir, key: str) -> None:
    """Note that the scheduler has ended a trial that was going on."""
    found = read(run_dir, key)
    if found is not None and not found[1]["end"]:
        rows, about = found
        write(run_dir, key, rows, about, "stopped")


def ended(run_dir: RunDir, key: str) -> bool:
    found = read(run_dir, key)
    return found is not None and bool(found[1]["end"])
