"""How long the adapters are trained with gans.steps=0: found on pilot concepts.

Each pilot is trained at a constant rate for gans.pilot_steps and scored on the way, on validation
images. The convergence rule (modeling/targets/convergence.py) is applied to the mean. A Fréchet
distance says more about n than about the pictures when they are few: then the kernel distance is
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from modeling.metrics.distances import MIN_FRECHET_COUNT, frechet_distance_from_features, kid
from modeling.targets.adapter_training import ConceptData, train_adapters, translate_all
from modeling.targets.convergence import converged_at, kept_steps, steps_to_train
from modeling.targets.lora import Adapter, stack
from modeling.targets.recipe import collection_recipe
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.adapter_metrics import FOLDER
from pipelines.stages.concepts import with_adapter
from pipelines.stages.judging import features_of
from pipelines.stages.pairs import INDEX, usable
from pipelines.stages.trainer import Trainer

RESULT = f"{FOLDER}/pilot.json"


class Curve(NamedTuple):
    """Scores of one pilot's adapter on the way, from step 0: the less the better."""

    concept_id: str
    steps: list[int]
    values: list[float]
    error: str


class Pilot(Trainer):
    """Trains one concept and scores it by `score`: l1, fd or kid."""

    def curve(self, concept_id: str, score: str) -> Curve:
        total = self.config.gans.pilot_steps
        measure = self.measure(self.data(concept_id, "val"), score)
        plan = collection_recipe(self.config.gans, total)
        values: dict[int, float] = {}

        def on_step(step: int, adapters: Adapter) -> None:
            if step % max(1, total // 20) == 0:
                values[step] = measure({k: v[0] for k, v in adapters.items()})

        (trained,) = train_adapters(
            self.translator,
            [self.data(concept_id)],
            [self.translator.zero_adapter()],
            replace(plan, lr_final=plan.lr),
            self.discriminator,
            self.config.seed,
            on_step=on_step,
        )
        return Curve(concept_id, list(values), list(values.values()), trained.error)

    def measure(self, data: ConceptData, score: str) -> Callable[[Adapter], float]:
        """Adapter → the distance of its pictures to the edits."""
        if score == "l1":
            return lambda adapter: self.l1([adapter], data)[0]
        extract = features_of(self.config)
        between = frechet_distance_from_features if score == "fd" else kid

        def embed(images: torch.Tensor) -> np.ndarray:
            return extract(images.permute(0, 2, 3, 1).contiguous().cpu().numpy())

        edited = embed(data.edited)

        def distance(adapter: Adapter) -> float:
            made = translate_all(self.translator, stack([adapter]), data.source, [data.tokens])
            return between(embed(made[0]), edited)

        return distance


def score_of(wanted: str, images: int) -> str:
    """What gans.pilot_score means on so many validation images: l1, fd or kid."""
    return "kid" if wanted == "fd" and images < MIN_FRECHET_COUNT else wanted


def find_steps(config: Config, run_dir: RunDir) -> int:
    """Steps for all concepts: up to convergence, and on until K checkpoints have been kept after it
    (paper Sec. 4.1).

    adapters/pilot.json says how they were found; a stopped stage goes on with that number. A
    pilot that diverges is left out; StageError if all do.
    """
    if run_dir.exists(RESULT):
        return int(run_dir.read_json(RESULT)["steps"])
    ids = [c.concept_id for c in with_adapter(usable(run_dir)) if c.split == "train"]
    stride = max(1, len(ids) // config.gans.pilots)
    chosen = ids[::stride][: config.gans.pilots]
    index = run_dir.read_table(INDEX, ["concept_id", "val"]).to_pylist()
    images = min(row["val"] for row in index if row["concept_id"] in chosen)
    score = score_of(config.gans.pilot_score, images)
    why = f" (a Fréchet distance needs {MIN_FRECHET_COUNT})" if score == "kid" else ""
    log(
        f"gans: finding the number of steps on {len(chosen)} pilot concepts by {score} of"
        f" {images} validation images{why}"
    )
    import ray

    @ray.remote(num_cpus=config.cluster.cpus_per_actor, num_gpus=config.cluster.gpus_per_actor)
    def curve(concept_id: str) -> Curve:
        return Pilot(config_tree.to_dict(config), run_dir).curve(concept_id, score)

    result = decide(config, ray.get([curve.remote(i) for i in chosen]), score)
    for concept_id, error in result["failed"].items():
        log(f"gans: pilot concept {concept_id} is left out: {error}")
    run_dir.write_json(RESULT, {**result, "images": images})
    log(f"gans: converged after {result['converged']} steps, {result['steps']} are trained")
    if result["converged"] == result["scored"][-1]:
        log("gans: which is where the pilots end: they may gain by more gans.pilot_steps")
    return int(result["steps"])


def decide(config: Config, curves: list[Curve], score: str) -> dict[str, Any]:
    """The rule on the mean of the curves that did not diverge; StageError if all did."""
    good = [c for c in curves if not c.error]
    if not good:
        raise StageError(
            f"gans: all {len(curves)} pilot concepts diverged ({curves[0].error}): give a lower"
            " gans.lr, or gans.steps"
        )
    steps, values = good[0].steps, np.mean([c.values for c in good], axis=0).tolist()
    # of KID's and FD's best value a part can be next to nothing: of the start
    scale = None if score == "l1" else values[0]
    found = converged_at(steps[1:], values[1:], config.gans.pilot_tolerance, scale)
    count = config.gans.checkpoints
    total = steps_to_train(found, count)
    return {
        "concepts": [c.concept_id for c in good],
        "failed": {c.concept_id: c.error for c in curves if c.error},
        "score": score,
        "scored": steps,
        "values": values,
        "converged": found,
        "steps": total,
        "kept": kept_steps(total, count),
    }
