"""Stage `gans`: one LoRA adapter per training concept, by a pool of trainer actors.

Ray Data feeds batches of concepts to `modeling.targets.adapter_training.train_adapters`. All
concepts share base, LoRA seed, discriminator start, image order and number of steps, so that their
adapters are comparable. One folder per concept in PEFT's format; `metrics.json` is written last.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from modeling import compiling
from modeling.fitting import Fit
from modeling.flops import weights_of
from modeling.targets.adapter_training import ConceptData, Trained, to_unit, train_adapters
from modeling.targets.convergence import kept_steps
from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, Adapter, from_bytes, to_files
from modeling.targets.recipe import collection_recipe
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.row_notes import RowNotes
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.stages.adapter_metrics import FOLDER, all_metrics, metrics_file
from pipelines.stages.concepts import with_adapter
from pipelines.stages.pairs import encoded_pairs, usable
from pipelines.stages.trainer import Trainer

MOST = {"cuda": 16, "cpu": 8}
"""Concepts of an actor's batch where gans.concepts_per_batch=0: what a lost actor may lose."""
NO_ROOM = "out of memory with a single concept: a smaller gans.batch takes less"


def concepts_at_once(config: Config) -> int:
    """Rows of an actor's batch: gans.concepts_per_batch, or the most that it will try."""
    device = "cuda" if config.cluster.gpus_per_actor else "cpu"
    return config.gans.concepts_per_batch or MOST[device]


def identity_l1(data: ConceptData) -> float:
    """The score of doing nothing."""
    return float((to_unit(data.source) - to_unit(data.edited)).abs().mean())


class CollectAdapters(Trainer):
    """Ray Data actor: trains a batch of concepts and writes their adapters."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, steps: int) -> None:
        super().__init__(config, run_dir)
        compiling.use(self.config.cluster.compile, self.device)
        self.recipe = collection_recipe(self.config.gans, steps)
        self.keep = kept_steps(steps, self.config.gans.checkpoints)
        c, network = self.config, self.translator
        what = (
            f"collect {network.n_weights} of {weights_of(network.network)} weights,"
            f" {c.images.size} pixels × {c.gans.batch}"
        )
        if 0 < c.cluster.gpus_per_actor < 1:  # of whose memory it has a part
            what += f", {c.cluster.gpus_per_actor:g} of it"
        self.fit = Fit(what, c.gans.concepts_per_batch, self.device, MOST)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "error": [], "metrics": []}
        for trained, validation in self.train([str(i) for i in batch["concept_id"]]):
            metrics = self.write(trained, validation) if trained.adapter is not None else {}
            out["concept_id"].append(trained.concept_id)
            out["error"].append(trained.error)
            out["metrics"].append(json.dumps(metrics))
        return out

    def train(self, concept_ids: list[str]) -> Iterator[tuple[Trained, ConceptData]]:
        """Fused training; concepts that lost images to errors are trained apart from the rest.

        Each with its validation images, as soon as it is trained.
        """
        groups: dict[int, list[tuple[str, pa.Table]]] = defaultdict(list)
        validation = {}
        for concept_id in concept_ids:
            train, validation[concept_id] = encoded_pairs(self.run_dir, concept_id, "train", "val")
            groups[train.num_rows].append((concept_id, train))
        for concepts in groups.values():
            for some, made in self.fit.pieces(concepts, self.trained):
                for r in made or [Trained(concept_id, None, NO_ROOM) for concept_id, _ in some]:
                    yield r, self.decoded(r.concept_id, validation[r.concept_id])

    def trained(self, encoded: list[tuple[str, pa.Table]]) -> list[Trained]:
        """All of them fused; their pictures are on the device for this long."""
        concepts = [self.decoded(concept_id, table) for concept_id, table in encoded]
        return train_adapters(
            self.translator,
            concepts,
            [self.translator.zero_adapter()] * len(concepts),
            self.recipe,
            self.discriminator,
            self.config.seed,
            self.keep,
        )

    def write(self, trained: Trained, validation: ConceptData) -> dict[str, Any]:
        """The adapter's files; returns what `metrics.json` says."""
        assert trained.adapter is not None
        folder = f"{FOLDER}/{trained.concept_id}"
        config = self.translator.lora_config
        about = {"concept_id": trained.concept_id, "seed": str(self.config.lora.seed)}
        for step, adapter in trained.checkpoints.items():
            if step != self.recipe.steps:
                files = to_files(adapter, config, {**about, "step": str(step)})
                self.run_dir.write_files(f"{folder}/step-{step:06d}", files, last=CONFIG_FILE)
        l1, zero = self.l1([trained.adapter, self.translator.zero_adapter()], validation)
        metrics = {
            **about,
            **{"l1": l1, "zero": zero, "identity": identity_l1(validation)},
            "steps": self.recipe.steps,
            "seconds": round(trained.seconds, 3),
        }
        files = to_files(trained.adapter, config, {**about, "step": str(self.recipe.steps)})
        files["metrics.json"] = json.dumps(metrics, indent=2).encode()
        self.run_dir.write_files(folder, files, last="metrics.json")
        return metrics


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    concepts = [c for c in with_adapter(usable(run_dir)) if c.split in ("train", "val")]
    ids = [c.concept_id for c in concepts]
    steps = config.gans.steps
    if not steps:
        from pipelines.stages.pilot import find_steps  # which builds on this module

        steps = find_steps(config, run_dir)
    notes = RowNotes(run_dir, "gans")
    scores = all_metrics(run_dir, ids, run_dir.listing(FOLDER), notes)
    todo = [i for i in ids if i not in scores]
    progress = Progress("gans", len(ids), "concepts", len(ids) - len(todo))
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir, "steps": steps}
    rows = [{"concept_id": i} for i in todo]
    bad: list[dict[str, str]] = []
    total, made = 0.0, 0
    batch = concepts_at_once(config)
    with notes:
        for row in map_actors(config, CollectAdapters, arguments, rows, batch):
            concept_id = str(row["concept_id"])
            if row["error"]:
                bad.append({"key": concept_id, "reason": row["error"]})
            else:
                scores[concept_id] = json.loads(row["metrics"])
                notes.add(metrics_file(concept_id), scores[concept_id])
                total, made = total + scores[concept_id]["l1"], made + 1
            note = f"validation L1 {total / made:.3f}" if made else ""
            progress.add(bad=bool(row["error"]), note=note)
    record_errors(config, run_dir, "gans", bad, len(ids))
    failures = [i for i in ids if i in scores and scores[i]["l1"] >= scores[i]["identity"]]
    trained = len(ids) - len(bad)
    log(f"gans: {trained - len(failures)} of {trained} adapters beat doing nothing on validation")
    return {"steps": steps, "adapters": trained, "not better than identity": len(failures)}


def load_adapter(run_dir: RunDir, folder: str) -> Adapter:
    """Adapter of a folder; AdapterError or ArtifactError names a damaged or missing file."""
    path = f"{folder}/{WEIGHTS_FILE}"
    return from_bytes(run_dir.read(path), run_dir.url(path))
