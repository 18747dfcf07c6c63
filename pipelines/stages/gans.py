"""Stage `gans`: one LoRA adapter per training concept, by a pool of trainer actors.

Ray Data feeds batches of concepts to `modeling.targets.adapter_training.train_adapters`. All
concepts share base, LoRA seed, discriminator start, image order and number of steps, so that their
adapters are comparable. One folder per concept in PEFT's format; `metrics.json` is written last.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modeling.targets.adapter_training import ConceptData, Trained, to_unit, train_adapters
from modeling.targets.convergence import kept_steps
from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, Adapter, from_bytes, to_files
from modeling.targets.recipe import collection_recipe
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import READERS, RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.stages.concepts import with_adapter
from pipelines.stages.pairs import encoded_pairs, usable
from pipelines.stages.trainer import FOLDER, Trainer


def identity_l1(data: ConceptData) -> float:
    """The score of doing nothing."""
    return float((to_unit(data.source) - to_unit(data.edited)).abs().mean())


class CollectAdapters(Trainer):
    """Ray Data actor: trains a batch of concepts and writes their adapters."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, steps: int) -> None:
        super().__init__(config, run_dir)
        self.recipe = collection_recipe(self.config.gans, steps)
        self.keep = kept_steps(steps, self.config.gans.checkpoints)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"concept_id": [], "error": [], "l1": [], "identity": []}
        for trained, validation in self.train([str(i) for i in batch["concept_id"]]):
            scores = {"l1": float("nan"), "identity": identity_l1(validation)}
            if trained.adapter is not None:
                scores = self.write(trained, validation)
            out["concept_id"].append(trained.concept_id)
            out["error"].append(trained.error)
            out["l1"].append(scores["l1"])
            out["identity"].append(scores["identity"])
        return out

    def train(self, concept_ids: list[str]) -> list[tuple[Trained, ConceptData]]:
        """Fused training; concepts that lost images to errors are trained apart from the rest."""
        groups: dict[int, list[ConceptData]] = defaultdict(list)
        validation = {}
        for concept_id in concept_ids:
            train, validation[concept_id] = encoded_pairs(self.run_dir, concept_id, "train", "val")
            data = self.decoded(concept_id, train)
            groups[data.source.shape[0]].append(data)
        done = []
        for concepts in groups.values():
            starts = [self.translator.zero_adapter()] * len(concepts)
            results = train_adapters(
                self.translator,
                concepts,
                starts,
                self.recipe,
                self.discriminator,
                self.config.seed,
                self.keep,
            )
            for r in results:
                done.append((r, self.decoded(r.concept_id, validation[r.concept_id])))
        return done

    def write(self, trained: Trained, validation: ConceptData) -> dict[str, float]:
        assert trained.adapter is not None
        folder = f"{FOLDER}/{trained.concept_id}"
        config = self.translator.lora_config
        about = {"concept_id": trained.concept_id, "seed": str(self.config.lora.seed)}
        for step, adapter in trained.checkpoints.items():
            if step != self.recipe.steps:
                files = to_files(adapter, config, {**about, "step": str(step)})
                self.run_dir.write_files(f"{folder}/step-{step:06d}", files, last=CONFIG_FILE)
        l1, zero = self.l1([trained.adapter, self.translator.zero_adapter()], validation)
        scores = {"l1": l1, "zero": zero, "identity": identity_l1(validation)}
        metrics = {
            **about,
            **scores,
            "steps": self.recipe.steps,
            "seconds": round(trained.seconds, 3),
        }
        files = to_files(trained.adapter, config, {**about, "step": str(self.recipe.steps)})
        files["metrics.json"] = json.dumps(metrics, indent=2).encode()
        self.run_dir.write_files(folder, files, last="metrics.json")
        return scores


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    concepts = [c for c in with_adapter(usable(run_dir)) if c.split in ("train", "val")]
    ids = [c.concept_id for c in concepts]
    steps = config.gans.steps
    if not steps:
        from pipelines.stages.pilot import find_steps  # which builds on this module

        steps = find_steps(config, run_dir)
    there = set(run_dir.files(FOLDER))
    todo = [i for i in ids if f"{FOLDER}/{i}/metrics.json" not in there]
    progress = Progress("gans", len(ids), "concepts", len(ids) - len(todo))
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir, "steps": steps}
    rows = [{"concept_id": i} for i in todo]
    bad: list[dict[str, str]] = []
    scores: dict[str, dict[str, Any]] = {}
    total = 0.0
    batch = config.gans.concepts_per_batch
    for row in map_actors(config, CollectAdapters, arguments, rows, batch):
        if row["error"]:
            bad.append({"key": row["concept_id"], "reason": row["error"]})
        else:
            scores[str(row["concept_id"])] = row
            total += row["l1"]
        note = f"validation L1 {total / len(scores):.3f}" if scores else ""
        progress.add(bad=bool(row["error"]), note=note)
    record_errors(config, run_dir, "gans", bad, len(ids))
    before = sorted(set(ids) - set(todo))
    scores |= {m["concept_id"]: m for m in all_metrics(run_dir, before)}
    failures = [i for i in ids if i in scores and scores[i]["l1"] >= scores[i]["identity"]]
    trained = len(ids) - len(bad)
    log(f"gans: {trained - len(failures)} of {trained} adapters beat doing nothing on validation")
    return {"steps": steps, "adapters": trained, "not better than identity": failures}


def all_metrics(run_dir: RunDir, concept_ids: Sequence[str]) -> list[dict[str, Any]]:
    """`load_metrics` of many, READERS at once: a store takes its time for each."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda i: load_metrics(run_dir, i), concept_ids))


def load_metrics(run_dir: RunDir, concept_id: str) -> dict[str, Any]:
    return dict(run_dir.read_json(f"{FOLDER}/{concept_id}/metrics.json"))


def load_adapter(run_dir: RunDir, folder: str) -> Adapter:
    """Adapter of a folder; AdapterError or ArtifactError names a damaged or missing file."""
    path = f"{folder}/{WEIGHTS_FILE}"
    return from_bytes(run_dir.read(path), run_dir.url(path))
