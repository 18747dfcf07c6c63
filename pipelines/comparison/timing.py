"""Seconds of every method, from one actor alone on an otherwise idle machine."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import replace
from typing import Any

from modeling.concepts.concept import Concept
from modeling.targets.adapter_training import train_adapters
from pipelines.comparison.actor import CompareMethods
from pipelines.comparison.budgets import e2gan, finetune, steps_of
from pipelines.comparison.methods import E2GAN, scratch_methods
from pipelines.comparison.rows import FOLDER
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir


class TimeMethods(CompareMethods):
    """Ray Data actor, alone: seconds of an epoch, and of a prediction."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"method": [], "seconds": [], "load": []}
        for job in batch["job"]:
            method, concept_id = str(job).split("/")
            load = os.getloadavg()[0]
            out["method"].append(method)
            out["seconds"].append(self.seconds(method, self.concepts[concept_id]))
            out["load"].append(load)
        return out

    def seconds(self, method: str, concept: Concept) -> float:
        """Median over repeats, after a first that is not counted."""
        repeats = self.config.compare.timed_repeats
        if method == "predict":
            return statistics.median(self._predict(concept) for _ in range(repeats + 1))
        if method in BASELINES:
            training = self.scratch(concept, method, 0)
            marks = []
            for epoch in range(min(repeats + 1, training.recipe.epochs)):
                before = training.seconds
                training.train(epoch + 1)
                marks.append(training.seconds - before)
            return statistics.median(marks[1:] or marks)
        c = self.config
        data = self.training(concept, c.compare.coreset)
        count = len(data.source)
        recipe = e2gan(c, count) if method == E2GAN else finetune(c, 1, count)
        steps = steps_of(1, count, recipe.batch)
        recipe = replace(recipe, steps=steps)
        taken = []
        for _ in range(repeats + 1):
            (trained,) = train_adapters(
                self.translator,
                [data],
                [self.translator.zero_adapter()],
                recipe,
                self.discriminator,
                c.seed,
            )
            taken.append(trained.seconds * count / (steps * recipe.batch))
        return statistics.median(taken[1:])

    def _predict(self, concept: Concept) -> float:
        begun = self.wait()
        self.predict([concept.concept_id])
        return self.wait() - begun


def timed(
    config: Config, run_dir: RunDir, arguments: dict[str, Any], concept_id: str
) -> dict[str, Any]:
    """The serial pass, kept in times.json."""
    path = f"{FOLDER}/times.json"
    if run_dir.exists(path):
        return dict(run_dir.read_json(path))
    names = ["predict", "finetune", E2GAN, *scratch_methods(config)]
    log("compare: timing every method alone")
    time.sleep(1)  # until the actors before have gone
    seconds: dict[str, float] = {}
    loads = []
    rows = [{"job": f"{m}/{concept_id}"} for m in names]
    for row in map_actors(config, TimeMethods, arguments, rows, len(rows), actors=1):
        seconds[row["method"]] = row["seconds"]
        loads.append(row["load"])
    times = {
        "seconds": seconds,
        "unit": "an epoch of the method's training images; predict: one adapter",
        "concept_id": concept_id,
        "load": max(loads),
        "machine": machine(),
    }
    run_dir.write(path, json.dumps(times, indent=2, ensure_ascii=False).encode())
    return times
