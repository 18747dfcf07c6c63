"""Actors of the stage `pairs`: edit a concept's images, and compare candidate editors on pilots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.instructions import instruction
from modeling.editors.interface import EditError, Editor, EditResult, Source
from modeling.editors.registry import EXACT, make_editor
from modeling.editors.sources import ChangedPictureError, load_source
from modeling.images import ImageError, encode_png
from pipelines.config import tree as config_tree
from pipelines.config.derived import exact_editor
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import threads_per_actor
from pipelines.runtime.stage_table import StageError
from pipelines.stages.source_list import AGAIN, sources_of
from pipelines.stages.sources import location, split_images

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


Scores = Callable[[list[np.ndarray], list[np.ndarray], str], list[dict[str, float]]]


def file_of(concept_id: str) -> str:
    return f"pairs/{concept_id}.parquet"


def editor_options(config: Config, name: str) -> dict[str, Any]:
    """Options of modeling.editors.registry.make_editor; an exact editor has none."""
    if name in EXACT:
        return {}
    e = config.editing
    single: dict[str, Mapping[str, Any]] = {
        "model": e.models,
        "extra": e.extras,
        "lora": e.loras,
        "scheduler": e.schedulers,
        "steps": e.steps,
        "guidance": e.guidance,
        "image_guidance": e.image_guidance,
        "strength": e.strength,
    }
    return {
        **{key: mapping[name] for key, mapping in single.items() if name in mapping},
        **{key: getattr(e, key) for key in ("batch", "size", "dtype", "attention", "compile")},
        "checkpointing": e.checkpointing,
        "inversions": e.inversions,
        "allow_download": config.allow_download,
        "seed": config.seed,
        "templates": {"prompt": e.prompts, "instruction": e.instructions},
    }


class EditActor:
    """What an actor loads once: the editor, the model that scores, the source images."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, editor: str) -> None:
        self.config, self.run_dir = config_tree.from_dict(config), run_dir
        if not exact_editor(self.config):
            import torch  # seconds, which an exact editor does not need

            torch.set_num_threads(threads_per_actor(self.config))
        self.editor: Editor = make_editor(editor, **editor_options(self.config, editor))
        e, images = self.config.editing, self.config.images
        self.scores: Scores | None = None
        if e.clip:
            from modeling.editors.scores import EditScores

            self.scores = EditScores(e.clip, e.identity, allow_download=self.config.allow_download)
        self.sources: dict[str, Source] = {}
        self.bad: dict[str, str] = {}
        self.changed = ""  # said by `edit_with`: Ray prints what a constructor raises as tracebacks
        digests = sources_of(self.config, run_dir)
        self.splits = split_images(list(digests), self.config.seed)
        for image_id, digest in digests.items():
            try:
                source = load_source(image_id, location(images), images.size, digest)
                self.sources[image_id] = source
            except ChangedPictureError as error:
                self.changed = f"{error} when this run began: {AGAIN}"
            except ImageError as error:
                self.bad[image_id] = str(error)

    def train(self, count: int) -> list[str]:
        """The first training images, bad ones included."""
        return [i for i, split in self.splits.items() if split == "train"][:count]

    def edited(self, sources: list[Source], concept: Concept) -> list[EditResult | EditError]:
        """Edits with their scores, where there is a model that scores."""
        results = self.editor.edit(sources, concept)
        for i, (source, result) in enumerate(zip(sources, results, strict=True)):
            if isinstance(result, EditResult) and result.image.shape != source.image.shape:
                results[i] = EditError(f"edit has shape {result.image.shape}")
        good = [i for i, r in enumerate(results) if isinstance(r, EditResult)]
        if self.scores is None or not good:
            return results
        made = [r.image for r in results if isinstance(r, EditResult)]
        text = instruction("prompt", concept, {"prompt": self.config.editing.prompts})
        scores = self.scores([sources[i].image for i in good], made, text)
        for i, parts in zip(good, scores, strict=True):
            result = results[i]
            assert isinstance(result, EditResult)
            results[i] = EditResult(result.image, result.scores | parts)
        return results


class EditConcept(EditActor):
    """Ray Data actor: edits all source images to one concept and writes the concept's file.

    After every `editing.part` pictures they are written beside it, so that an actor that dies
    loses no more; the concept's file gathers these parts.
    """

    def __init__(self, config: dict[str, Any], run_dir: RunDir, editor: str) -> None:
        super().__init__(config, run_dir, editor)
        self.encoded = {k: encode_png(s.image) for k, s in self.sources.items()}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"concept_id": [], "about": [], "changed": []}
        for text in batch["concept"]:
            concept = Concept(**json.loads(str(text)))
            about = {} if self.changed else self.write(concept)
            out["concept_id"].append(concept.concept_id)
            out["about"].append(json.dumps(about))
            out["changed"].append(self.changed)
        return out

    def write(self, concept: Concept) -> dict[str, Any]:
        """Make what is missing of a concept's images; returns `about` (see `load_about`)."""
        wanted = list(self.splits) if concept.adapter else self.train(self.config.images.paired)
        parts = self.run_dir.files(_parts_of(concept.concept_id))
        tables = list(self._usable_parts(parts))
        done = {i for table in tables for i in json.loads(table.schema.metadata[b"images"])}
        missing = [i for i in wanted if i not in done]
        size = self.config.editing.part
        for start in range(0, len(missing), size):
            images = missing[start : start + size]
            table = self.edit(concept, images)
            tables.append(table)
            if len(wanted) > size:
                name = f"{_parts_of(concept.concept_id)}/{_part_name(images[0])}.parquet"
                self.run_dir.write_table(name, table)
                parts.append(name)
        rows = pa.concat_tables(tables)
        about = _gathered(tables, rows, wanted, self.editor.name, self.splits)
        about["dropped"] = self._unusable(about, wanted)
        # with the file, so that a stopped stage does not forget them
        rows = rows.sort_by("image_id").replace_schema_metadata({"about": json.dumps(about)})
        self.run_dir.write_table(file_of(concept.concept_id), rows)
        if parts:
            self.run_dir.delete(_parts_of(concept.concept_id))
        return about

    def edit(self, concept: Concept, images: list[str]) -> pa.Table:
        """Rows of SCHEMA; its metadata says which images were tried and why some are not there."""
        errors = {i: self.bad[i] for i in images if i in self.bad}
        sources = [self.sources[i] for i in images if i in self.sources]
        rows, rejected = [], {}
        for source, result in zip(sources, self.edited(sources, concept), strict=True):
            if isinstance(result, EditError):
                errors[source.image_id] = str(result)
                continue
            reason = self._rejection(result.scores)
            if reason:
                rejected[source.image_id] = reason
                continue
            rows.append(
                {
                    "concept_id": concept.concept_id,
                    "image_id": source.image_id,
                    "split": self.splits[source.image_id],
                    "source": self.encoded[source.image_id],
                    "edited": encode_png(result.image),
                    "editor": self.editor.name,
                    "scores": json.dumps(result.scores),
                }
            )
        metadata = {"images": images, "errors": errors, "rejected": rejected}
        table = pa.Table.from_pylist(rows, SCHEMA)
        return table.replace_schema_metadata({k: json.dumps(v) for k, v in metadata.items()})

    def _rejection(self, scores: dict[str, float]) -> str:
        for name, least in self.config.editing.least.items():
            if scores[name] < least:
                return f"{name} {scores[name]:.4f} is less than {least}"
        return ""

    def _unusable(self, about: dict[str, Any], wanted: list[str]) -> str:
        """Why a concept cannot be trained on; "" if it can."""
        counts = about["counts"]
        for split in sorted({self.splits[i] for i in wanted} - counts.keys()):
            return f"it has no {split} images"
        kept = sum(counts.values())
        if about["rejected"] and kept < self.config.editing.least_images * len(wanted):
            return f"{kept} of {len(wanted)} images are left, less than editing.least_images"
        return ""

    def _usable_parts(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """What an actor that died left of a concept, if the same editor made it."""
        for name in names:
            try:
                table = self.run_dir.read_table(name)
            except ArtifactError:
                continue  # made again, and the damaged file deleted with the other parts
            if set(table["editor"].to_pylist()) <= {self.editor.name}:
                yield table


def _part_name(image_id: str) -> str:
    """Short and plain, whatever a picture's file is called."""
    return hashlib.sha1(image_id.encode()).hexdigest()


def _parts_of(concept_id: str) -> str:
    return f"editing/parts/{concept_id}"


def _gathered(
    tables: list[pa.Table],
    rows: pa.Table,
    wanted: list[str],
    editor: str,
    splits: dict[str, str],
) -> dict[str, Any]:
    """What became of a concept's images."""
    about: dict[str, Any] = {"editor": editor, "images": len(wanted), "counts": {}}
    for key in ("errors", "rejected"):
        of = [json.loads(t.schema.metadata[key.encode()]) for t in tables]
        about[key] = {i: why for part in of for i, why in sorted(part.items())}
    for split in rows["split"].to_pylist():
        about["counts"][split] = about["counts"].get(split, 0) + 1
    return about


def load_about(run_dir: RunDir, concept_id: str) -> dict[str, Any] | None:
    """What became of a finished concept's images, from its file's footer; None without the file.

    editor, images (how many were wanted), counts (pictures by split), errors and rejected
    (image_id → reason), dropped (why the concept cannot be used, or "").
    """
    try:
        metadata = run_dir.read_schema(file_of(concept_id)).metadata
        return dict(json.loads(metadata[b"about"]))
    except (ArtifactError, KeyError, TypeError):
        return None  # not there, damaged, or another file: to be made


def edit_with(
    config: Config, run_dir: RunDir, actor: type, editor: str, concepts: list[Concept]
) -> Iterator[dict[str, Any]]:
    """Concepts through a pool of actors that have loaded this editor.

    StageError where one of them found another picture than the run began with.
    """
    rows = [{"concept": json.dumps(vars(c))} for c in concepts]
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir, "editor": editor}
    for row in map_actors(
        config,
        actor,
        arguments,
        rows,
        actors=config.cluster.editor_actors.get(editor),
        gpus=config.cluster.editor_gpus.get(editor),
    ):
        if row["changed"]:
            raise StageError(row["changed"])
        yield row
