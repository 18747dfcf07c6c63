"""Stage `pairs`: every source image edited to every concept, by pools of editor actors.

One Parquet file per concept, `pairs/<concept_id>.parquet`, readable with pyarrow alone, and in
`editing/` what became of the others; a stopped stage goes on with what is not there yet. With
editor=best the candidates are first compared on a few pilot images of each concept
(pipelines/stages/editing.py), and the winner edits all of them: five full passes over the paper's
97,611 concepts × 1,000 images would be 488 million edits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modeling.concepts.concept import Concept
from modeling.images import decode_image
from pipelines.config.derived import resolve_editor
from pipelines.config.schema import Config
from pipelines.runtime.log import Progress, log
from pipelines.runtime.row_notes import RowNotes
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.runtime.stage_table import StageError
from pipelines.stages.choosing_editors import choose_editors
from pipelines.stages.concepts import load_concepts, with_pairs
from pipelines.stages.editing import EditConcept, edit_with, file_of, load_about
from pipelines.stages.source_list import record_sources, sources_of

INDEX = "editing/index.parquet"
INDEX_SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("editor", pa.string()),
        ("train", pa.int32()),
        ("val", pa.int32()),
        ("test", pa.int32()),
        ("failed", pa.int32()),
        ("rejected", pa.int32()),
        ("dropped", pa.string()),  # why no later stage uses the concept; "" where they do
    ]
)
REJECTED_SCHEMA = pa.schema([(k, pa.string()) for k in ("concept_id", "image_id", "reason")])


class Pairs(NamedTuple):
    """Pairs of one concept: uint8 [M, 3, H, W] each, in the order of image_ids."""

    image_ids: list[str]
    source: npt.NDArray[np.uint8]
    edited: npt.NDArray[np.uint8]


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    concepts = with_pairs(load_concepts(run_dir))
    notes = RowNotes(run_dir, "pairs")
    about = notes.of(
        {c.concept_id: file_of(c.concept_id) for c in concepts},
        run_dir.listing("pairs"),
        lambda concept_id: load_about(run_dir, concept_id),
    )
    todo = [c for c in concepts if about[c.concept_id] is None]
    # pictures that are all edited may be gone
    images = len(record_sources(config, run_dir) if todo else sources_of(config, run_dir))
    best = resolve_editor(config) == "best"
    choice = choose_editors(config, run_dir, concepts) if best else {}
    groups: dict[str, list[Concept]] = defaultdict(list)
    for concept in todo:
        groups[choice.get(concept.concept_id, resolve_editor(config))].append(concept)
    progress = Progress("pairs", len(concepts), "concepts", len(concepts) - len(todo))
    unedited = {c.concept_id for c in groups.pop("", [])}
    with notes:
        for editor, group in groups.items():
            for row in edit_with(config, run_dir, EditConcept, editor, group):
                made = json.loads(row["about"])
                about[row["concept_id"]] = made
                notes.add(file_of(row["concept_id"]), made)
                progress.add(bad=bool(made.get("dropped")))
    for concept_id in unedited:
        about[concept_id] = {
            "editor": "",
            "counts": {},
            "images": images,
            "errors": {},
            "rejected": {},
            "dropped": "no candidate editor made a single pilot picture (editing/choice.parquet)",
        }
    return _finish(config, run_dir, concepts, about, images)


def _finish(
    config: Config,
    run_dir: RunDir,
    concepts: list[Concept],
    about: dict[str, dict[str, Any] | None],
    images: int,
) -> dict[str, Any]:
    """Write the index, what was rejected and the errors; fail if too much is bad."""
    index, rejected, errors, total = [], [], [], 0
    for concept in concepts:
        one = about[concept.concept_id]
        if one is None:
            raise ArtifactError(f"{run_dir.url(file_of(concept.concept_id))} is missing")
        counts = {split: one["counts"].get(split, 0) for split in ("train", "val", "test")}
        index.append(
            {
                "concept_id": concept.concept_id,
                "editor": one["editor"],
                **counts,
                "failed": len(one["errors"]),
                "rejected": len(one["rejected"]),
                "dropped": one["dropped"],
            }
        )
        total += one["images"]
        errors += [
            {"key": f"{concept.concept_id}/{i}", "reason": r} for i, r in one["errors"].items()
        ]
        if one["dropped"] and not one["errors"]:
            errors.append({"key": concept.concept_id, "reason": one["dropped"]})
        rejected += [
            {"concept_id": concept.concept_id, "image_id": i, "reason": r}
            for i, r in one["rejected"].items()
        ]
    run_dir.write_table(INDEX, pa.Table.from_pylist(index, INDEX_SCHEMA))
    if rejected:
        table = pa.Table.from_pylist(rejected, REJECTED_SCHEMA)
        run_dir.write_table("editing/rejected.parquet", table)
    record_errors(config, run_dir, "pairs", errors, total)
    dropped = [row for row in index if row["dropped"]]
    if len(dropped) > config.max_error_fraction * len(concepts):
        raise StageError(
            f"pairs: {len(dropped)} of {len(concepts)} concepts cannot be used, more than"
            f" max_error_fraction={config.max_error_fraction}; first: {dropped[0]['concept_id']}:"
            f" {dropped[0]['dropped']}"
        )
    few = sum(not c.adapter for c in concepts)
    log(
        f"pairs: {images} images × {len(concepts) - few} concepts"
        + (f", {config.images.paired} × {few} that get no adapter" if few else "")
        + (f"; {len(rejected)} pictures rejected" if rejected else "")
        + (f"; {len(dropped)} concepts dropped" if dropped else "")
    )
    return {
        "images": images,
        "concepts": len(concepts) - len(dropped),
        "bad": len(errors),
        "rejected": len(rejected),
        "dropped": len(dropped),
    }


def usable(run_dir: RunDir) -> list[Concept]:
    """Concepts with pictures of their own, those left out whose edits came to nothing."""
    if not run_dir.exists(INDEX):  # made when no concept could be dropped
        return with_pairs(load_concepts(run_dir))
    index = run_dir.read_table(INDEX, ["concept_id", "dropped"]).to_pylist()
    dropped = {row["concept_id"] for row in index if row["dropped"]}
    return [c for c in with_pairs(load_concepts(run_dir)) if c.concept_id not in dropped]


def decode_rows(table: pa.Table) -> Pairs:
    """Decode a concept's rows, sorted by image_id."""
    rows = sorted(table.to_pylist(), key=lambda r: r["image_id"])
    if not rows:
        return Pairs([], np.zeros((0, 3, 1, 1), np.uint8), np.zeros((0, 3, 1, 1), np.uint8))

    def images(key: str) -> npt.NDArray[np.uint8]:
        arrays = [decode_image(r[key]) for r in rows]
        return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))

    return Pairs([r["image_id"] for r in rows], images("source"), images("edited"))


def encoded_pairs(run_dir: RunDir, concept_id: str, *splits: str) -> tuple[pa.Table, ...]:
    """Rows of SCHEMA, pictures still encoded, of each split; ArtifactError if it has none."""
    table = run_dir.read_table(file_of(concept_id))
    found = tuple(table.filter(pc.field("split") == split) for split in splits)
    for split, rows in zip(splits, found, strict=True):
        if not rows.num_rows:
            raise ArtifactError(f"{run_dir.url(file_of(concept_id))} has no {split} images")
    return found


def load_pairs(run_dir: RunDir, concept_id: str, split: str) -> Pairs:
    """All pairs of one concept in one split; ArtifactError if there are none."""
    return decode_rows(*encoded_pairs(run_dir, concept_id, split))
