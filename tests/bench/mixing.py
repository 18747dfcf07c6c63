"""Two adapters in one picture: `python -m tests.bench.mixing run_dir=… [key=value …]`.

For each held-out combination of a finished run, the adapters predicted for its two parts, put
together by several rules, against the adapter predicted for the joined text: mean L1 to the true
edit of evaluate.images unseen pictures, over all weight generators of the run (`repeats`) and three
seeds of the noise. Give adapt.split=val to choose a rule. Writes its split's part of
tests/bench/results/mixing.json.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling.metrics.distances import paired_bootstrap
from modeling.targets.adapter_training import to_uint8, to_unit
from modeling.targets.lora import Adapter
from modeling.weights.interface import WeightGenerator
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.concepts import load_concepts
from pipelines.stages.judging import Judge
from pipelines.stages.prediction import Predictor
from pipelines.stages.weight_generators import Member, load_generator

RESULT = Path(__file__).parent / "results" / "mixing.json"
JOINED, SEEDS = "the joined text's adapter", (0, 1, 2)


def main(words: list[str]) -> int:
    config = load_config(words)
    run = RunDir(config.run_dir)
    predictor, judge = Predictor(to_dict(config), run), Judge(config, run)
    folders = [Member("generator", i).folder for i in range(config.repeats)]
    generators = [load_generator(run, folder).model for folder in folders]
    concepts = {c.concept_id: c for c in load_concepts(run)}
    scores: dict[str, list[float]] = defaultdict(list)  # a concept's mean over seeds
    chosen = [
        c
        for c in concepts.values()
        if c.split == config.adapt.split
        and c.heldout == "combinations"
        and len(c.parents) == 2
        and set(c.parents) <= concepts.keys()
    ]
    for concept in chosen:
        judged = judge.judged(concept, 0, config.evaluate.images)
        source, truth = to_unit(judged.source), to_unit(judged.edited)
        ids = [*concept.parents, concept.concept_id]
        found: dict[str, list[float]] = defaultdict(list)
        for generator, seed in product(generators, SEEDS):
            for rule, made in mixed(predictor, generator, ids, source, seed).items():
                found[rule].append(float((to_unit(to_uint8(made)) - truth).abs().mean()))
        for rule, values in found.items():
            scores[rule].append(float(np.mean(values)))
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[config.adapt.split] = {
        "combinations": len(chosen),
        "generators": len(generators),
        "rules": {rule: about(values, scores[JOINED]) for rule, values in scores.items()},
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results[config.adapt.split]["rules"], indent=1))
    return 0


@torch.no_grad()
def mixed(
    predictor: Predictor, generator: WeightGenerator, ids: list[str], x: Tensor, seed: int
) -> dict[str, Tensor]:
    """What each rule makes of pictures [n, 3, H, W]; ids: of both parts, and of the whole."""
    translator = predictor.translator
    merged = [translator.merge(a) for a in predictor.predict(ids, generator, seed)]
    tokens = [predictor.texts[i].tokens for i in ids]

    def edit(state: Mapping[str, Tensor], pictures: Tensor, prompt: Tensor) -> Tensor:
        mask = torch.ones(len(prompt), dtype=torch.bool)
        return translator.apply(state, pictures, prompt, mask).clamp(-1, 1)

    first, second = (edit(merged[i], x, tokens[i]) for i in (0, 1))
    base = translator.merge(translator.zero_adapter())

    def weights(part: float) -> Adapter:
        return {k: v + part * sum(m[k] - v for m in merged[:2]) for k, v in base.items()}

    larger = (first - x).abs().mean(1, keepdim=True) >= (second - x).abs().mean(1, keepdim=True)
    return {
        "left alone": x,
        JOINED: edit(merged[2], x, tokens[2]),
        "the first part's alone": first,
        "the second part's alone": second,
        "changes added": (first + second - x).clamp(-1, 1),
        "changes averaged": (first + second) / 2,
        "the larger change, pixel by pixel": torch.where(larger, first, second),
        "first, then second": edit(merged[1], first, tokens[1]),
        "second, then first": edit(merged[0], second, tokens[0]),
        "weights added, joined prompt": edit(weights(1), x, tokens[2]),
        "weights averaged, joined prompt": edit(weights(0.5), x, tokens[2]),
    }


def about(values: list[float], joined: list[float]) -> dict[str, Any]:
    """Mean, and the difference to the joined text's with its paired bootstrap interval."""
    deltas = np.array(values) - np.array(joined)
    out: dict[str, Any] = {"l1": round(float(np.mean(values)), 5)}
    if deltas.any():
        out["against the joined text"] = [round(v, 5) for v in paired_bootstrap(deltas)]
    return out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
