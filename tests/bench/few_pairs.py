"""Fine-tunes where 1, 4 or 16 pairs of a concept exist and no more:
`python -m tests.bench.few_pairs run_dir=… [pairs=1,4,16] [concepts=24] [seed=0] [key=value …]`.

Over a finished run (its words are to be given, as for every command): from the prediction and from
zero LoRA, as published and by the run's own fine-tune, scored along the way on evaluate.images
unseen pictures. Mean L1 over the held-out concepts of each set, with the paired bootstrap interval
of the difference to the prediction with learned steps. Writes tests/bench/results/few_pairs.json.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling.metrics.distances import paired_bootstrap
from modeling.targets.adapter_training import to_unit, translate_all
from modeling.targets.lora import stack
from modeling.targets.recipe import as_published
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished
from pipelines.stages.adapt import cut, heldout
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import PREDICTION, UNREFINED, Contenders
from pipelines.stages.judging import Judge

RESULT = Path(__file__).parent / "results" / "few_pairs.json"
ZERO = "zero LoRA"


def main(words: list[str]) -> int:
    own = {"pairs": "1,4,16", "concepts": "24", "seed": "0"}
    given = dict(w.partition("=")[::2] for w in words)
    own |= {k: v for k, v in given.items() if k in own}
    config = load_config([w for w in words if w.partition("=")[0] not in own])
    counts, most, seed = (
        [int(n) for n in own["pairs"].split(",")],
        int(own["concepts"]),
        int(own["seed"]),
    )
    run_dir = RunDir(config.run_dir)
    contenders, judge = Contenders(to_dict(config), run_dir), Judge(config, run_dir)
    ids = set(heldout(run_dir, config.adapt.split))
    sets: dict[str, list[Any]] = defaultdict(list)
    for concept in load_concepts(run_dir):
        if concept.concept_id in ids and len(sets[concept.heldout]) < most:
            sets[concept.heldout].append(concept)
    scores: dict[tuple[str, int, str, int], list[float]] = defaultdict(list)
    for held, concepts in sets.items():
        for concept in concepts:
            for key, value in scored(contenders, judge, concept, counts, seed):
                scores[held, *key].append(value)
        print(f"{held}: {len(concepts)} concepts", flush=True)
    markers = finished(run_dir, "adapt") or {}
    result = {
        "command": "python -m tests.bench.few_pairs "
        + " ".join(w for w in words if "run_dir" not in w),
        "steps": config.adapt.steps,
        "concepts": {held: len(concepts) for held, concepts in sets.items()},
        "images": config.evaluate.images,
        "rows": [row(scores, *key) for key in scores],
        "machine": machine(),
        "commit": markers.get("commit"),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def scored(
    contenders: Contenders, judge: Judge, concept: Any, counts: list[int], seed: int
) -> list[tuple[tuple[int, str, int], float]]:
    """((pairs, method, step), L1) of one concept."""
    config, concept_id = contenders.config, concept.concept_id
    judged = judge.judged(concept, 0, config.evaluate.images)
    truth, text = to_unit(judged.edited), contenders.texts[concept_id]
    starts = contenders.starts(concept_id, 0, [PREDICTION, ZERO])
    data, own, published = contenders.data(concept_id), config.adapt, as_published(config.adapt)
    by_adam = replace(own, learned_steps=0)
    fine_tunes = {
        PREDICTION: (PREDICTION, own),
        UNREFINED: (PREDICTION, by_adam),
        f"{PREDICTION}, as published": (PREDICTION, published),
        ZERO: (ZERO, by_adam),
        f"{ZERO}, as published": (ZERO, published),
    }
    out = []
    for count in counts:
        index = random.Random(f"{seed} {concept_id}").sample(range(len(data.source)), count)
        few = cut(data, index)
        for method, (start, adapt) in fine_tunes.items():
            (trained,) = contenders.finetune(
                [few], [starts[start]], [text], adapt, config.seed, keep=[own.learned_steps]
            )
            if trained.adapter is None:
                raise FloatingPointError(f"{concept.text}: {trained.error}")
            track = {0: starts[start], **trained.checkpoints, own.steps: trained.adapter}
            made = translate_all(
                contenders.translator,
                stack(list(track.values())),
                judged.source,
                [text.tokens] * len(track),
            )
            for step, pictures in zip(track, made, strict=True):
                out.append(((count, method, step), float((to_unit(pictures) - truth).abs().mean())))
    return out


def row(
    scores: dict[tuple[str, int, str, int], list[float]],
    held: str,
    pairs: int,
    method: str,
    step: int,
) -> dict[str, Any]:
    """Mean, and the difference to the prediction with learned steps at the same step."""
    values = np.array(scores[held, pairs, method, step])
    out = {
        "set": held,
        "pairs": pairs,
        "method": method,
        "step": step,
        "l1": round(float(values.mean()), 5),
    }
    if method != PREDICTION and len(values) > 1:
        deltas = np.array(scores[held, pairs, PREDICTION, step]) - values
        mean, lo, hi = paired_bootstrap(deltas)
        out |= {"prediction_against_it": [round(v, 5) for v in (mean, lo, hi)]}
        out |= {"wins": int((deltas < 0).sum())}
    return out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
