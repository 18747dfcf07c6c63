"""Stage `adapt`: for every held-out concept predict an adapter and fine-tune it (paper Sec. 4.4).

`adapted/<concept_id>/step-NNNNNN/` holds the adapter in PEFT's format before (step 0), along and
after the fine-tune; `timings.json`, written last, splits the time into predict / load / fine-tune.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import numpy as np
import torch

from modeling.targets.adapter_training import ConceptData
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import CONFIG_FILE, to_files
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.stages.finetuning import Adapting
from pipelines.stages.pairs import usable

FOLDER = "adapted"


def scored_steps(config: Config) -> list[int]:
    """Steps of the fine-tune at which adapters are kept and scored, each learned one among them."""
    a = config.adapt
    return sorted({0, *range(1, a.learned_steps + 1), *a.keep, a.steps})


def step_folder(concept_id: str, step: int) -> str:
    return f"{FOLDER}/{concept_id}/step-{step:06d}"


def cut(data: ConceptData, index: list[int]) -> ConceptData:
    """The pairs of a coreset."""
    return ConceptData(data.concept_id, data.source[index], data.edited[index], data.tokens)


class AdaptConcept(Adapting):
    """Ray Data actor: predict, load, fine-tune one concept after another."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.predict([next(iter(self.texts))])  # first-call costs are not a concept's

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [self.adapt(str(i)) | {"actor": self.name} for i in batch["concept_id"]]
        return {k: [r[k] for r in rows] for k in rows[0]}

    def adapt(self, concept_id: str) -> dict[str, Any]:
        config = self.config
        begun = self.wait()
        (adapter,) = self.predict([concept_id])
        predicted = self.wait()
        self.translator.check(adapter)
        self.translator.merge(adapter)
        loaded = self.wait()
        data = self.data(concept_id)
        picking = self.wait()
        index = image_coreset(data.source, config.adapt.coreset, config.seed)
        picked = self.wait()
        (trained,) = self.finetune(
            [cut(data, index)],
            [adapter],
            [self.texts[concept_id]],
            config.adapt,
            config.seed,
            keep=scored_steps(config)[1:-1],
        )
        if trained.adapter is None:
            return {"concept_id": concept_id, "error": trained.error, "seconds": 0.0}
        about = {"concept_id": concept_id}
        steps = {0: adapter, **trained.checkpoints, config.adapt.steps: trained.adapter}
        for step, weights in steps.items():
            files = to_files(weights, self.translator.lora_config, {**about, "step": str(step)})
            self.run_dir.write_files(step_folder(concept_id, step), files, last=CONFIG_FILE)
        timings = {
            "predict": predicted - begun,
            "load": loaded - predicted,
            "coreset": picked - picking,
            "finetune": trained.seconds,
            "learned": trained.learned_seconds,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
        }
        path = f"{FOLDER}/{concept_id}/timings.json"
        self.run_dir.write(path, json.dumps(timings, indent=2).encode())
        return {
            "concept_id": concept_id,
            "error": "",
            "seconds": predicted - begun + trained.seconds,
        }


def heldout(run_dir: RunDir, split: str) -> list[str]:
    """concept_ids of the held-out concepts of a split, test or val."""
    return [c.concept_id for c in usable(run_dir) if c.split == split]


def load_timings(run_dir: RunDir, concept_id: str) -> dict[str, Any]:
    return dict(run_dir.read_json(f"{FOLDER}/{concept_id}/timings.json"))


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    ids = heldout(run_dir, config.adapt.split)
    todo = [i for i in ids if not run_dir.exists(f"{FOLDER}/{i}/timings.json")]
    progress = Progress("adapt", len(ids), "concepts", len(ids) - len(todo))
    bad = []
    actors = set()
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    for row in map_actors(config, AdaptConcept, arguments, [{"concept_id": i} for i in todo]):
        if row["error"]:
            bad.append({"key": row["concept_id"], "reason": row["error"]})
        actors.add(row["actor"])
        progress.add(bad=bool(row["error"]))
    record_errors(config, run_dir, "adapt", bad, len(ids))
    failed = {b["key"] for b in bad}
    times = [load_timings(run_dir, i) for i in ids if i not in failed]
    mean = {
        k: float(np.mean([t[k] for t in times])) for k in ("predict", "load", "coreset", "finetune")
    }
    log(f"adapt: predict {mean['predict']:.3f} s, fine-tune {mean['finetune']:.2f} s a concept")
    return {"concepts": len(times), "seconds": mean, "actors": len(actors)}
