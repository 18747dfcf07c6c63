"""What `metrics.json` says of the collection's adapters: steps, L1 on validation pairs, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.runtime.row_notes import RowNotes
from pipelines.runtime.run_dir import Listed, RunDir

FOLDER = "adapters"


def metrics_file(concept_id: str) -> str:
    return f"{FOLDER}/{concept_id}/metrics.json"


def load_metrics(run_dir: RunDir, concept_id: str) -> dict[str, Any]:
    return dict(run_dir.read_json(metrics_file(concept_id)))


def collected(listed: Mapping[str, Listed]) -> list[str]:
    """concept_id of each finished adapter; listed: what is in FOLDER."""
    return [name.split("/")[1] for name in listed if name.endswith("/metrics.json")]


def all_metrics(
    run_dir: RunDir,
    concept_ids: Sequence[str],
    listed: Mapping[str, Listed],
    notes: RowNotes | None = None,
) -> dict[str, dict[str, Any]]:
    """`load_metrics` of those that have any; listed: what is in FOLDER."""
    notes = notes or RowNotes(run_dir, "gans")
    files = {i: metrics_file(i) for i in concept_ids}
    found = notes.of(files, listed, lambda concept_id: load_metrics(run_dir, concept_id))
    return {i: metrics for i, metrics in found.items() if metrics is not None}
