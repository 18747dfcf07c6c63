"""The pairs on which the image loss is taken, and the wordings of their concepts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import torch

from modeling.targets.adapter_training import batch_order
from modeling.text import TextEmbedding
from modeling.weights.image_loss import ImageBatch
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.concepts import load_concepts
from pipelines.stages.pairs import decode_rows, encoded_pairs, usable
from pipelines.stages.weight_generators import text_batch
from pipelines.stages.weights import drawn


def wordings_of(run_dir: RunDir) -> dict[str, list[str]]:
    """For each concept, the concept_ids of its own text and of its paraphrases."""
    out: dict[str, list[str]] = defaultdict(list)
    for concept in load_concepts(run_dir):
        owner = concept.parents[0] if concept.origin == "paraphrased" else concept.concept_id
        out[owner].append(concept.concept_id)
    return out


def image_pools(config: Config, run_dir: RunDir) -> list[list[str]]:
    """concept_ids that the image loss draws from, equally from each pool that is not empty.

    Concepts with an adapter, combinations without, single concepts without. Where
    `weights.concepts` leaves some adapters out, the same part of the others is left out.
    """
    train = [c for c in usable(run_dir) if c.split == "train"]
    kinds = [
        [c for c in train if c.adapter],
        [c for c in train if not c.adapter and c.origin == "combined"],
        [c for c in train if not c.adapter and c.origin != "combined"],
    ]
    part = config.weights.concepts / len(kinds[0]) if config.weights.concepts else 1.0
    pools = [
        drawn([c.concept_id for c in kind], round(part * len(kind)), config.seed) for kind in kinds
    ]
    return [sorted(pool) for pool in pools if pool]


class Draws(NamedTuple):
    """What a training draws: so many steps, of so many concepts each, with so many pairs each."""

    steps: int
    concepts: int
    pairs: int


class ImagePairs:
    """Random training pairs of random concepts, as many from each pool.

    They stay in memory as PNG: of hundreds of concepts each is needed every hundredth step.
    """

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        pools: list[list[str]],
        texts: Mapping[str, TextEmbedding],
        wordings: dict[str, list[str]],
        rank: int,
        world: int,
        plan: Draws,
    ) -> None:
        self.texts, self.wordings, self.count = texts, wordings, plan.pairs
        self.pools = pools
        self.orders = []
        for i, pool in enumerate(pools):
            share = plan.concepts * (i + 1) // len(self.pools)
            share -= plan.concepts * i // len(self.pools)
            order = batch_order(len(pool), plan.steps, share * world, config.seed + 1 + i)
            self.orders.append(order.view(plan.steps, world, share)[:, rank])

        @lru_cache(maxsize=8192)
        def pairs(concept_id: str) -> pa.Table:
            return encoded_pairs(run_dir, concept_id, "train")[0]

        self.pairs = pairs

    def read(self, step: int, rng: random.Random) -> ImageBatch:
        """This rank's pairs and prompts of one step."""
        chosen = [
            pool[i]
            for pool, order in zip(self.pools, self.orders, strict=True)
            for i in order[step].tolist()
        ]
        sources, edits, texts = [], [], []
        for concept_id in chosen:
            rows = self.pairs(concept_id)
            places, enough = range(rows.num_rows), rows.num_rows >= self.count
            drawn = rng.sample if enough else rng.choices
            pictures = decode_rows(rows.take(drawn(places, k=self.count)))
            sources.append(torch.from_numpy(pictures.source))
            edits.append(torch.from_numpy(pictures.edited))
            texts.append(self.texts[rng.choice(self.wordings[concept_id])])
        return ImageBatch(torch.stack(sources), torch.stack(edits), text_batch(texts))
