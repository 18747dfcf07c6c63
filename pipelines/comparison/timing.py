"""Seconds of every method, from one actor alone on an otherwise idle machine."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import replace
from typing import Any

from modeling.concepts.concept import Concept
from modeling.targets.adapter_training import ConceptData
from modeling.targets.recipe import as_published, finetune_recipe
from pipelines.comparison.actor import CompareMethods
from pipelines.comparison.budgets import e2gan, steps_of
from pipelines.comparison.methods import E2GAN, E2GAN_BY_OURS, scratch_methods
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
        if method == "learned step":
            return statistics.median(self._learned(data) for _ in range(repeats + 1))
        published = as_published(c.adapt)
        adapt = published if method in (E2GAN, "finetune, published") else c.adapt
        recipe = e2gan(c, count) if method == E2GAN else finetune_recipe(adapt)
        steps = steps_of(1, count, recipe.batch)
        taken = []
        for _ in range(repeats + 1):
            (trained,) = self.finetune(
                [data],
                [self.translator.zero_adapter()],
                [self.texts[concept.concept_id]],
                replace(adapt, learned_steps=0),
                c.seed,
                recipe=replace(recipe, steps=steps),
            )
            taken.append(trained.seconds * count / (steps * recipe.batch))
        return statistics.median(taken[1:])

    def _learned(self, data: ConceptData) -> float:
        """Of one learned step."""
        a = self.config.adapt
        (trained,) = self.finetune(
            [data],
            [self.translator.zero_adapter()],
            [self.texts[data.concept_id]],
            replace(a, steps=a.learned_steps),
            self.config.seed,
        )
        return trained.learned_seconds / a.learned_steps

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
    names = ["predict", "finetune", "finetune, published", E2GAN, *scratch_methods(config)]
    names += [E2GAN_BY_OURS] if config.adapt.basis else []
    names += ["learned step"] if config.adapt.learned_steps else []
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
        "unit": "an epoch of the method's training images; predict: one adapter; learned step: one",
        "concept_id": concept_id,
        "load": max(loads),
        "machine": machine(),
    }
    run_dir.write(path, json.dumps(times, indent=2, ensure_ascii=False).encode())
    return times
