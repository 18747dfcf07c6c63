"""How well a weight generator does on the validation concepts, and the difference of two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from modeling.metrics.distances import paired_bootstrap
from modeling.targets.adapter_training import to_unit, translate_all
from modeling.targets.lora import stack
from modeling.targets.recipe import as_published
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import Contenders
from pipelines.stages.judging import Judge

Scores = Mapping[str, Mapping[str, list[float]]]
"""Held-out set → concept → L1 before and after the fine-tune."""


def scored(config: Config, run_dir: RunDir, methods: tuple[str, ...]) -> dict[str, Scores]:
    """By method."""
    contenders, judge = Contenders(to_dict(config), run_dir), Judge(config, run_dir)
    torch.set_num_threads(1)
    published = as_published(config.adapt)
    out: dict[str, Any] = {m: defaultdict(dict) for m in methods}
    for concept in load_concepts(run_dir):
        if concept.split != "val":
            continue
        starts = contenders.starts(concept.concept_id, 0, methods)
        data, text = contenders.data(concept.concept_id), contenders.texts[concept.concept_id]
        judged = judge.judged(concept, 0, config.evaluate.images)
        truth = to_unit(judged.edited)
        for method, start in starts.items():
            (trained,) = contenders.finetune([data], [start], [text], published, config.seed)
            if trained.adapter is None:
                raise FloatingPointError(f"{concept.text}: {trained.error}")
            pair: list[Any] = [start, trained.adapter]
            made = translate_all(
                contenders.translator, stack(pair), judged.source, [text.tokens] * 2
            )
            out[method][concept.heldout][concept.concept_id] = [
                round(float((to_unit(m) - truth).abs().mean()), 5) for m in made
            ]
    return out


def against(mine: Mapping[str, Scores], others: Mapping[str, Scores]) -> dict[str, list[float]]:
    """Differences with their intervals, seeds of a concept averaged first; below 0 is better.

    mine, others: by seed; those that both have are compared.
    """
    seeds = sorted(mine.keys() & others.keys())
    out = {}
    for held in mine[seeds[0]]:
        ids = list(mine[seeds[0]][held])
        a, b = (
            np.array([[scores[s][held][i] for i in ids] for s in seeds]).mean(axis=0)
            for scores in (mine, others)
        )
        for column, when in enumerate(("before", "after")):
            found = paired_bootstrap(a[:, column] - b[:, column])
            out[f"{held}, {when}"] = [round(float(v), 5) for v in found]
    return out


def means(mine: Mapping[str, Scores]) -> dict[str, list[float]]:
    """Held-out set → mean L1 before and after, over concepts and seeds."""
    first = next(iter(mine.values()))
    return {
        held: [
            round(float(v), 5)
            for v in np.mean([list(scores[held].values()) for scores in mine.values()], axis=(0, 1))
        ]
        for held in first
    }
