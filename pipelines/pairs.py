"""Stage `pairs`: every source image edited to every concept, by a pool of editor actors.

One Parquet file per concept, `pairs/<concept_id>.parquet`, readable with pyarrow alone: a stopped
stage goes on with the concepts that have no file yet.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modeling.concepts import Concept
from modeling.editors import EditError, Source, load_source, make_editor, source_ids
from modeling.images import ImageError, decode_image, encode_png
from pipelines.actors import map_actors
from pipelines.artifacts import ArtifactError, RunDir
from pipelines.concepts import load_concepts, with_pairs
from pipelines.config import Config, Images, resolve_editor
from pipelines.log import Progress, log
from pipelines.stages import record_errors

SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("image_id", pa.string()),
        ("split", pa.string()),  # train | val | test, by image
        ("source", pa.binary()),  # PNG
        ("edited", pa.binary()),  # PNG
        ("editor", pa.string()),
        ("scores", pa.string()),  # JSON object
    ]
)


class Pairs(NamedTuple):
    """Pairs of one concept: uint8 [M, 3, H, W] each, in the order of image_ids."""

    image_ids: list[str]
    source: npt.NDArray[np.uint8]
    edited: npt.NDArray[np.uint8]


def location(images: Images) -> str:
    """What modeling.editors calls the source: "avatars", or a folder."""
    return "avatars" if images.source == "avatars" else images.path


def file_of(concept_id: str) -> str:
    return f"pairs/{concept_id}.parquet"


def split_images(image_ids: list[str], seed: int) -> dict[str, str]:
    """80 % train, 10 % validation, 10 % test of the images (paper Sec. 5.1), by the seed."""
    shuffled = sorted(image_ids)
    random.Random(f"images-{seed}").shuffle(shuffled)
    tenth = max(1, len(shuffled) // 10)
    held = {i: "test" for i in shuffled[:tenth]} | {i: "val" for i in shuffled[tenth : 2 * tenth]}
    return {i: held.get(i, "train") for i in image_ids}


class EditConcept:
    """Ray Data actor: edits all source images to one concept and writes the concept's file."""

    def __init__(self, editor: str, images: Images, seed: int, run_dir: RunDir) -> None:
        self.editor = make_editor(editor)
        self.run_dir = run_dir
        self.sources: dict[str, Source] = {}
        self.bad: dict[str, str] = {}
        ids = source_ids(location(images), images.count)
        self.splits = split_images(ids, seed)
        for image_id in ids:
            try:
                self.sources[image_id] = load_source(image_id, location(images), images.size)
            except ImageError as error:
                self.bad[image_id] = str(error)
        self.encoded = {k: encode_png(s.image) for k, s in self.sources.items()}
        train = [i for i in ids if self.splits[i] == "train"]
        self.few = set(train[: images.paired])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"concept_id": [], "errors": []}
        for text in batch["concept"]:
            concept = Concept(**json.loads(str(text)))
            rows, errors = self.edit(concept)
            if rows:
                table = pa.Table.from_pylist(rows, SCHEMA)
                # with the file, so that a stopped stage does not forget them
                table = table.replace_schema_metadata({"errors": json.dumps(errors)})
                self.run_dir.write_table(file_of(concept.concept_id), table)
            out["concept_id"].append(concept.concept_id)
            out["errors"].append(json.dumps(errors))
        return out

    def edit(self, concept: Concept) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Rows of the concept's table, and image_id → reason for those that failed."""
        wanted = self.splits.keys() if concept.adapter else self.few
        bad = {i: why for i, why in self.bad.items() if i in wanted}
        rows, errors = [], {f"{concept.concept_id}/{i}": why for i, why in bad.items()}
        chosen = {i: s for i, s in self.sources.items() if i in wanted}
        results = self.editor.edit(list(chosen.values()), concept)
        for (image_id, source), result in zip(chosen.items(), results, strict=True):
            if isinstance(result, EditError):
                errors[f"{concept.concept_id}/{image_id}"] = str(result)
                continue
            if result.image.shape != source.image.shape:
                errors[f"{concept.concept_id}/{image_id}"] = f"edit has shape {result.image.shape}"
                continue
            rows.append(
                {
                    "concept_id": concept.concept_id,
                    "image_id": image_id,
                    "split": self.splits[image_id],
                    "source": self.encoded[image_id],
                    "edited": encode_png(result.image),
                    "editor": self.editor.name,
                    "scores": json.dumps(result.scores),
                }
            )
        return rows, errors


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    ids = source_ids(location(config.images), config.images.count)
    concepts = with_pairs(load_concepts(run_dir))
    reasons = {c.concept_id: _recorded(run_dir, c.concept_id) for c in concepts}
    todo = [c for c in concepts if reasons[c.concept_id] is None]
    progress = Progress("pairs", len(concepts), "concepts", len(concepts) - len(todo))
    arguments = {
        "editor": resolve_editor(config),
        "images": config.images,
        "seed": config.seed,
        "run_dir": run_dir,
    }
    rows = [{"concept": json.dumps(asdict(c))} for c in todo]
    for row in map_actors(config, EditConcept, arguments, rows):
        reasons[row["concept_id"]] = json.loads(row["errors"])
        progress.add()
    errors = [{"key": k, "reason": v} for bad in reasons.values() if bad for k, v in bad.items()]
    few = sum(not c.adapter for c in concepts)
    fewer = min(config.images.paired, len(ids))
    total = (len(concepts) - few) * len(ids) + few * fewer
    record_errors(config, run_dir, "pairs", errors, total)
    log(
        f"pairs: {len(ids)} images × {len(concepts) - few} concepts"
        + (f", {fewer} × {few} that get no adapter" if few else "")
    )
    return {"images": len(ids), "concepts": len(concepts), "bad": len(errors)}


def _recorded(run_dir: RunDir, concept_id: str) -> dict[str, str] | None:
    """Errors of a concept whose file is there (written whole) and can be read; else None."""
    if not run_dir.exists(file_of(concept_id)):
        return None
    try:
        metadata = run_dir.read_table(file_of(concept_id), ["image_id"]).schema.metadata
    except ArtifactError:
        return None
    return dict(json.loads(metadata[b"errors"]))


def decode_rows(table: pa.Table) -> Pairs:
    """Decode a concept's rows, sorted by image_id."""
    rows = sorted(table.to_pylist(), key=lambda r: r["image_id"])
    if not rows:
        return Pairs([], np.zeros((0, 3, 1, 1), np.uint8), np.zeros((0, 3, 1, 1), np.uint8))

    def images(key: str) -> npt.NDArray[np.uint8]:
        arrays = [decode_image(r[key]) for r in rows]
        return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))

    return Pairs([r["image_id"] for r in rows], images("source"), images("edited"))


def encoded_pairs(run_dir: RunDir, concept_id: str, split: str) -> pa.Table:
    """Rows of SCHEMA, pictures still encoded, of one split; ArtifactError if there are none."""
    table = run_dir.read_table(file_of(concept_id))
    # pyarrow makes its compute functions at import: no stub has them
    rows = table.filter(pa.compute.equal(table["split"], split))  # type: ignore[attr-defined]
    if not rows.num_rows:
        raise ArtifactError(f"{run_dir.url(file_of(concept_id))} has no {split} images")
    return rows


def load_pairs(run_dir: RunDir, concept_id: str, split: str) -> Pairs:
    """All pairs of one concept in one split; ArtifactError if there are none."""
    return decode_rows(encoded_pairs(run_dir, concept_id, split))
