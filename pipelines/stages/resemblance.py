"""Which training adapter each generated one resembles most.

arXiv 2506.07998 finds weight generators that only repeat their training set. The generated adapters
are predicted once by actors; then the collection passes by, part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import load, save

from modeling.weights.controls import NearestRows
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import Contenders
from pipelines.stages.evaluation_tables import FOLDER
from pipelines.stages.training_set import TrainingSet
from pipelines.stages.weights import drawn, load_layout

TABLE = f"{FOLDER}/nearest.parquet"
STARTS = f"{FOLDER}/starts"
COLLECTED = "collected"
"""Instead of a method: rows of training adapters, each with its nearest other."""
DRAWN = 256
"""Training adapters whose nearest other is looked for, of more."""
HELD = 2**29
"""Bytes of generated adapters that are compared in one pass over the collection."""
SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("repeat", pa.int32()),
        ("method", pa.string()),
        ("nearest", pa.string()),  # concept_id of a training adapter; "" where there is none
        ("folder", pa.string()),  # where that adapter is
        ("distance", pa.float64()),  # root mean square, in normalised weights
    ]
)


class Start(NamedTuple):
    """One generated adapter."""

    concept_id: str
    repeat: int
    method: str


class PredictStarts(Contenders):
    """Ray Data actor: every weight generator's adapter for a concept, as normalised blocks."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for concept_id in batch["concept_id"]:
            tensors = {}
            for repeat in range(self.config.repeats):
                methods = list(self.generators(repeat))
                for method, start in self.starts(str(concept_id), repeat, methods).items():
                    blocks = self.decoder.encode(start)
                    tensors[f"{repeat}/{method}"] = blocks.cpu().contiguous()
            self.run_dir.write(f"{STARTS}/{concept_id}.safetensors", save(tensors))
        return {"concept_id": batch["concept_id"]}


def find_nearest(config: Config, run_dir: RunDir, concept_ids: Sequence[str]) -> None:
    """Write TABLE, unless it is there for all of these concepts."""
    if run_dir.exists(TABLE):
        known = run_dir.read_table(TABLE, ["concept_id"])["concept_id"].to_pylist()
        if set(concept_ids) <= set(known):
            run_dir.delete(STARTS)  # of a command that was stopped here
            return
    there = set(run_dir.files(STARTS))
    todo = [{"concept_id": i} for i in concept_ids if f"{STARTS}/{i}.safetensors" not in there]
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    for _ in map_actors(config, PredictStarts, arguments, todo):
        pass
    training = TrainingSet(run_dir)
    log(f"evaluate: the nearest of {len(training.ids)} adapters to each generated one")
    search = _Search(run_dir, training)
    chosen = drawn(training.ids, min(DRAWN, len(training.ids)), config.seed)
    for concept_id, raw in training.rows(chosen).items():
        own = training.ids.index(concept_id)
        search.add(Start(concept_id, 0, COLLECTED), search.normalisation.apply(raw), own)
    for concept_id in concept_ids:
        tensors = load(run_dir.read(f"{STARTS}/{concept_id}.safetensors"))
        for key, blocks in sorted(tensors.items()):  # which come in any order
            repeat, _, method = key.partition("/")
            search.add(Start(concept_id, int(repeat), method), blocks, -1)
    search.flush()
    run_dir.write_table(TABLE, pa.Table.from_pylist(search.rows, SCHEMA))
    run_dir.delete(STARTS)


class _Search:
    """Collects generated adapters, and compares as many as may be held at once."""

    def __init__(self, run_dir: RunDir, training: TrainingSet) -> None:
        self.training = training
        layout, self.normalisation = load_layout(run_dir)
        self.mask = layout.mask
        self.most = max(1, HELD // (4 * int(self.mask.sum())))
        self.waiting: list[tuple[Start, torch.Tensor, int]] = []
        self.rows: list[dict[str, Any]] = []

    def add(self, start: Start, blocks: torch.Tensor, own: int) -> None:
        self.waiting.append((start, blocks[self.mask], own))
        if len(self.waiting) == self.most:
            self.flush()

    def flush(self) -> None:
        if not self.waiting:
            return
        vectors = torch.stack([vector for _, vector, _ in self.waiting])
        found = NearestRows(vectors, [own for *_, own in self.waiting])
        for part in self.training.parts():
            found.add(self.normalisation.apply(part)[:, self.mask])
        for (start, *_), index, gap in zip(self.waiting, *found.finish(), strict=True):
            nearest = self.training.ids[int(index)] if index >= 0 else ""
            folder = self.training.folder(nearest) if nearest else ""
            found_one = {"nearest": nearest, "folder": folder, "distance": float(gap)}
            self.rows.append({**start._asdict(), **found_one})
        self.waiting = []


class Nearest(NamedTuple):
    """concept_id of a training adapter, its folder, and its distance."""

    concept_id: str
    folder: str
    distance: float


def load_nearest(run_dir: RunDir) -> dict[Start, Nearest]:
    rows = run_dir.read_table(TABLE).to_pylist()
    keys = [Start(r["concept_id"], r["repeat"], r["method"]) for r in rows]
    found = [Nearest(r["nearest"], r["folder"], r["distance"]) for r in rows]
    return dict(zip(keys, found, strict=True))
