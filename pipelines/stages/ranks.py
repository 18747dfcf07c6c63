"""Command `ranks`: search a LoRA rank per layer on the base's concepts, at the configured size.

Trains adapters three times: of the highest rank for the search (modeling/targets/rank_search.py),
of the ranks found, and of lora.rank and lora.ranks as they are, which the others are compared with.
It changes nothing: what it prints is pasted into the configuration before `gans`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from modeling.metrics.distances import paired_bootstrap
from modeling.targets.adapter_training import ConceptData, Trained
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.rank_search import (
    Gains,
    adapted_layers,
    energy_gains,
    mean_gains,
    one_layer_cut,
    rank_costs,
    search_ranks,
)
from modeling.weights.codec import BlockLayout
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.config.sections.training import Lora
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.runtime.stage_table import StageError
from pipelines.stages.base import load_base
from pipelines.stages.gans import CollectAdapters, concepts_at_once, identity_l1

FOLDER = "ranks"
RESULT, ERRORS = f"{FOLDER}/ranks.json", "errors/ranks.parquet"
HIGHEST, FOUND, CONFIGURED = "highest", "found", "configured"
LOSS_IMAGES = 64
"""Training images on which ranks.score=loss scores each cut."""


class TrainAtRanks(CollectAdapters):
    """Ray Data actor: trains the base's concepts at the ranks of its config, scores the adapters.

    name: what the scores are filed under; gains, too, for the highest rank.
    """

    def __init__(self, config: dict[str, Any], run_dir: RunDir, steps: int, name: str) -> None:
        super().__init__(config, run_dir, steps)
        self.keep = []  # of adapters that only their scores are kept of
        self.name = name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "error": []}
        for trained, validation in self.train([str(i) for i in batch["concept_id"]]):
            if trained.adapter is not None:
                scores = self.scores(trained, validation)
                self.run_dir.write_json(_file(self.name, trained.concept_id), scores)
            out["concept_id"].append(trained.concept_id)
            out["error"].append(trained.error)
        return out

    def scores(self, trained: Trained, validation: ConceptData) -> dict[str, Any]:
        assert trained.adapter is not None
        scores: dict[str, Any] = {
            "l1": self.l1([trained.adapter], validation)[0],
            "identity": identity_l1(validation),
        }
        if self.name == HIGHEST:
            scores["gains"] = self.gains(trained)
        return scores

    def gains(self, trained: Trained) -> Gains:
        """What each layer keeps at each rank; by the loss, less L1 on training images is more."""
        assert trained.adapter is not None
        layers, choices = adapted_layers(self.translator), self.config.ranks.choices
        if self.config.ranks.score == "energy":
            return energy_gains(trained.adapter, layers, choices)
        data = self.data(trained.concept_id)
        some = replace(data, source=data.source[:LOSS_IMAGES], edited=data.edited[:LOSS_IMAGES])
        gains: Gains = {layer.name: {} for layer in layers}
        for layer, rank, cut in one_layer_cut(trained.adapter, layers, choices):
            gains[layer][rank] = -self.l1([cut], some)[0]
        return gains


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    steps = config.ranks.steps or config.gans.steps
    if not steps:
        raise ConfigError(
            "ranks: gans.steps=0 leaves the steps to pilots at ranks that are not yet known: give"
            " ranks.steps"
        )
    translator, _ = load_base(config, run_dir)
    costs, budget = rank_costs(translator), _lora_weights(translator)
    lowest, highest = (f(config.ranks.choices) for f in (min, max))
    if not lowest * sum(costs.values()) < budget < highest * sum(costs.values()):
        raise ConfigError(
            f"ranks.choices={config.ranks.choices}: lora.rank={config.lora.rank} and lora.ranks"
            f" make {budget} weights, which leaves no choice; they must lie between the"
            f" {lowest * sum(costs.values())} of the lowest rank in every layer and the"
            f" {highest * sum(costs.values())} of the highest"
        )
    concepts = [str(i) for i in run_dir.read_json("base/base.json")["concepts"]]
    log(f"ranks: {steps} steps on each of {len(concepts)} base concepts, three times")
    seed = config.lora.seed
    bad = train_at(config, run_dir, HIGHEST, Lora(highest, {}, seed), concepts, steps)
    trained = [i for i in concepts if run_dir.exists(_file(HIGHEST, i))]
    record_errors(config, run_dir, "ranks", bad, 3 * len(concepts))
    gains = mean_gains([_gains(run_dir, i) for i in trained])
    found = search_ranks({name: gains[name] for name in costs}, costs, budget)
    lora = Lora(config.lora.rank, found, seed)
    bad += train_at(config, run_dir, FOUND, lora, concepts, steps)
    bad += train_at(config, run_dir, CONFIGURED, config.lora, concepts, steps)
    record_errors(config, run_dir, "ranks", bad, 3 * len(concepts))
    scores = compare(run_dir, concepts)
    weights = sum(costs[name] * rank for name, rank in found.items())
    result = {
        "layers": [
            {"layer": n, "rank": r, "weights": r * costs[n], "gains": gains[n]}
            for n, r in found.items()
        ],
        "weights": weights,
        "budget": budget,
        "score": config.ranks.score,
        "steps": steps,
        "validation": scores,
    }
    run_dir.write_json(RESULT, result)
    adapted = AdaptedTranslator(translator.network, lora.rank, found, seed)
    w = config.weights
    layout = BlockLayout.build(adapted.shapes, adapted.groups, w.grouping, w.block_size)
    log(f"ranks: {weights} weights of A and B of at most {budget}; {layout.n_blocks} blocks")
    log(
        f"ranks: validation L1 {scores[FOUND]:.4f}, as configured {scores[CONFIGURED]:.4f}, of"
        f" rank {highest} everywhere {scores[HIGHEST]:.4f}"
    )
    if scores["difference"]["mean"] >= 0:
        log(
            "ranks: no better than the configured ranks: leave lora.rank and lora.ranks as they are"
        )
    return {"weights": weights, "validation": scores}


def to_yaml(run_dir: RunDir) -> str:
    """The ranks found, as a preset's section. Every layer is named: mappings are merged by key."""
    layers = run_dir.read_json(RESULT)["layers"]
    return OmegaConf.to_yaml({"lora": {"ranks": {x["layer"]: x["rank"] for x in layers}}})


def compare(run_dir: RunDir, concepts: list[str]) -> dict[str, Any]:
    """Mean validation L1 over the concepts that all three trainings have, and the difference.

    found − configured, with a 95 % interval over concepts where there are two or more. StageError
    if there is no such concept.
    """
    names = (HIGHEST, FOUND, CONFIGURED)
    there = [i for i in concepts if all(run_dir.exists(_file(n, i)) for n in names)]
    if not there:
        raise StageError(
            f"ranks: no concept was trained at all three ranks: see {run_dir.url(ERRORS)}"
        )
    read = {n: [run_dir.read_json(_file(n, i)) for i in there] for n in names}
    scores: dict[str, Any] = {n: float(np.mean([s["l1"] for s in read[n]])) for n in names}
    scores["identity"] = float(np.mean([s["identity"] for s in read[FOUND]]))
    deltas = np.array(
        [a["l1"] - b["l1"] for a, b in zip(read[FOUND], read[CONFIGURED], strict=True)]
    )
    scores["difference"] = {"mean": float(deltas.mean())}
    if len(deltas) > 1:
        scores["difference"] = paired_bootstrap(deltas)._asdict()
    return scores | {"concepts": there, "better": int((deltas < 0).sum())}


def _lora_weights(translator: AdaptedTranslator) -> int:
    costs, shapes = rank_costs(translator), translator.shapes
    return sum(costs[g.name] * shapes[g.a][0] for g in adapted_layers(translator))


def _file(name: str, concept_id: str) -> str:
    return f"{FOLDER}/{name}/{concept_id}.json"


def _gains(run_dir: RunDir, concept_id: str) -> Gains:
    saved = run_dir.read_json(_file(HIGHEST, concept_id))["gains"]
    return {layer: {int(r): g for r, g in by_rank.items()} for layer, by_rank in saved.items()}


def train_at(
    config: Config, run_dir: RunDir, name: str, lora: Lora, concepts: list[str], steps: int
) -> list[dict[str, str]]:
    """Train and score at these ranks what is not there yet; returns the errors."""
    todo = [i for i in concepts if not run_dir.exists(_file(name, i))]
    progress = Progress(f"ranks, {name}", len(concepts), "concepts", len(concepts) - len(todo))
    arguments = {
        "config": config_tree.to_dict(replace(config, lora=lora)),
        "run_dir": run_dir,
        "steps": steps,
        "name": name,
    }
    errors = []
    rows = [{"concept_id": i} for i in todo]
    for row in map_actors(config, TrainAtRanks, arguments, rows, concepts_at_once(config)):
        if row["error"]:
            errors.append({"key": f"{name}/{row['concept_id']}", "reason": str(row["error"])})
        progress.add()
    return errors
