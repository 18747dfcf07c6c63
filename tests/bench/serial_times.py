"""What a start and a step cost: `python -m tests.bench.serial_times preset=small [key=value …]`.

One concept after another, one thread, on a finished run: predicting an adapter, a step of its
fine-tune, a step of a translator trained from scratch. The seconds of docs/results.md come from
here and not from `evaluate`, whose actors share the machine. Writes
results/serial_times_PRESET.json. Use an otherwise idle machine: the load average before the run is
recorded.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from modeling.targets.adapter_training import batch_order, pad_tokens, to_unit, train_adapters
from modeling.targets.base_training import BaseTraining
from modeling.targets.coreset import image_coreset
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import make_target
from modeling.targets.recipe import as_published, base_recipe, finetune_recipe
from pipelines.config import tree as config_tree
from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import cut, heldout
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.prediction import Predictor
from tests.bench.demo_stages import RESULTS

CONCEPTS, SCRATCH_STEPS = 12, 40


def main(words: list[str]) -> int:
    import torch

    load = os.getloadavg()
    torch.set_num_threads(1)
    config = load_config(words)
    run_dir = RunDir(config.run_dir)
    predictor = Predictor(config_tree.to_dict(config), run_dir)
    ids = heldout(run_dir, config.adapt.split)
    ids = [ids[i * len(ids) // CONCEPTS] for i in range(min(CONCEPTS, len(ids)))]
    predictor.predict(ids[:1])  # first-call costs are nobody's
    times: dict[str, list[float]] = {"predict": [], "adapter_step": [], "scratch_step": []}
    for concept_id in ids:
        begun = time.perf_counter()
        (adapter,) = predictor.predict([concept_id])
        times["predict"].append(time.perf_counter() - begun)
        data = predictor.data(concept_id)
        small = cut(data, image_coreset(data.source, config.adapt.coreset, config.seed))
        plan = finetune_recipe(as_published(config.adapt))
        (trained,) = train_adapters(
            predictor.translator, [small], [adapter], plan, predictor.discriminator, config.seed
        )
        times["adapter_step"].append(trained.seconds / plan.steps)

        tokens, mask = pad_tokens([data.tokens])
        network = make_target(translator_config(config, tokens.shape[-1]))
        critic = PatchDiscriminator(discriminator_config(config))
        gan = config.adapt.gan_weight
        scratch = replace(base_recipe(config.base), batch=plan.batch, gan_weight=gan)
        training = BaseTraining(network, critic, scratch)
        order = batch_order(len(data.source), SCRATCH_STEPS, plan.batch, config.seed)
        begun = time.perf_counter()
        for index in order:
            training.step(to_unit(data.source[index]), to_unit(data.edited[index]), tokens, mask)
        times["scratch_step"].append((time.perf_counter() - begun) / SCRATCH_STEPS)
    result = {
        "command": "python -m tests.bench.serial_times " + " ".join(words),
        "seconds": {k: round(statistics.median(v), 5) for k, v in times.items()},
        "spread": {k: [round(min(v), 5), round(max(v), 5)] for k, v in times.items()},
        "concepts": len(ids),
        "batch": config.adapt.batch,
        "threads": 1,
        "load_average_before": load,
        "machine": machine(),
    }
    path = Path(RESULTS, f"serial_times_{config.preset}.json")
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["seconds"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
