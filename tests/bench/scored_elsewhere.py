"""A weight generator that was trained elsewhere, scored on a run's held-out concepts.

    python -m tests.bench.scored_elsewhere run_dir=… folder=… out=FILE [concepts=24] [key=value …]

folder: what tests/bench/gpu_generators.py leaves. Its predictions, and those from before its image
loss, are fine-tuned as stage `evaluate` does: by the run's recipe, with and without learned steps,
and as published. Writes, as JSON, each concept's L1 to the true edit of evaluate.images unseen
pictures, and means by set, method and fine-tune; it goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from modeling.targets.adapter_training import to_unit, translate_all
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import Adapter, stack
from modeling.targets.recipe import as_published
from modeling.weights import checkpoint
from modeling.weights.interface import WeightGenerator
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import cut
from pipelines.stages.concepts import load_concepts
from pipelines.stages.finetuning import Adapting
from pipelines.stages.judging import Judge, Judged

BEFORE = "before-images.safetensors"
KEPT = (3, 12)


def generators(folder: Path) -> dict[str, WeightGenerator]:
    out = {}
    for name, average in (("1-D UNet", checkpoint.EMA_FILE), ("1-D UNet, weights only", BEFORE)):
        files = {
            checkpoint.CONFIG_FILE: (folder / checkpoint.CONFIG_FILE).read_bytes(),
            checkpoint.MODEL_FILE: (folder / checkpoint.MODEL_FILE).read_bytes(),
            checkpoint.EMA_FILE: (folder / average).read_bytes(),
        }
        read = checkpoint.from_files(files)
        assert read.ema is not None
        read.ema.copy_to(read.model)
        out[name] = read.model.eval()
    return out


def main(words: list[str]) -> int:
    given = dict(w.partition("=")[::2] for w in words)
    folder, out = Path(given.pop("folder")), Path(given.pop("out"))
    count = int(given.pop("concepts", "24"))
    config = load_config([f"{k}={v}" for k, v in given.items()])
    run = RunDir(config.run_dir)
    stage, judge, a = Adapting(to_dict(config), run), Judge(config, run), config.adapt
    ways = {"basis": (a, 0), "published": (as_published(a), 0)}
    if a.learned_steps:
        ways = {"learned": (a, a.learned_steps), **ways}
    result = json.loads(out.read_text()) if out.exists() else {"scores": {}}
    taken: dict[str, int] = defaultdict(int)
    made_by = generators(folder)
    for concept in load_concepts(run):
        kind = concept.heldout
        if concept.split != a.split or not kind or taken[kind] >= count:
            continue
        taken[kind] += 1
        if concept.concept_id in result["scores"].get(kind, {}):
            continue
        judged = judge.judged(concept, 0, config.evaluate.images)
        data = stage.data(concept.concept_id)
        data = cut(data, image_coreset(data.source, a.coreset, config.seed))
        text = stage.texts[concept.concept_id]
        scores: dict[str, list[float]] = {}
        for name, model in made_by.items():
            (start,) = stage.predict([concept.concept_id], model, config.seed)
            for way, (adapt, learned) in ways.items():
                (trained,) = stage.finetune(
                    [data], [start], [text], adapt, config.seed, learned=learned, keep=KEPT[:-1]
                )
                assert trained.adapter is not None, trained.error
                track = [start, trained.checkpoints[KEPT[0]], trained.adapter]
                scores[f"{name}, {way}"] = [l1(stage, x, judged, text.tokens) for x in track]
        result["scores"].setdefault(kind, {})[concept.concept_id] = scores
        result["machine"] = machine()
        result["means"] = means(result["scores"])
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(kind, taken[kind], scores, flush=True)
    print(json.dumps(result["means"], indent=1))
    return 0


def l1(stage: Adapting, adapter: Adapter, judged: Judged, tokens: Any) -> float:
    made = translate_all(stage.translator, stack([adapter]), judged.source, [tokens])[0]
    return round(float((to_unit(made) - to_unit(judged.edited)).abs().mean()), 5)


def means(
    scores: dict[str, dict[str, dict[str, list[float]]]],
) -> dict[str, dict[str, list[float]]]:
    return {
        kind: {
            method: [round(float(v), 4) for v in np.mean([c[method] for c in of.values()], axis=0)]
            for method in next(iter(of.values()))
        }
        for kind, of in scores.items()
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
