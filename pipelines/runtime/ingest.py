"""Batches of weight blocks for the weight generator's training, streamed from Ray Data.

A dataset that fits `CACHE_BYTES` is streamed once into the worker's memory; batches then depend on
seed and step alone, so that a resumed training sees what an uninterrupted one would. A larger one
is sharded over the workers and streamed anew each epoch with a local shuffle; a resumed training
then starts at a fresh epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeling.targets.adapter_training import batch_order
from pipelines.runtime.tensors import to_numpy

CACHE_BYTES = 4 * 2**30


class Batch(NamedTuple):
    concept_ids: list[str]
    blocks: Tensor
    """Raw weights [B, N, b]."""


def cached_batches(
    shard: Any, steps: int, batch: int, seed: int, start: int, rank: int, world: int
) -> Iterator[Batch]:
    """Batches of steps `start` … `steps` - 1; this rank's share of a global batch."""
    rows: list[tuple[str, int, np.ndarray]] = []
    for table in shard.iter_batches(batch_size=64, batch_format="pyarrow"):
        arrays = to_numpy(table["blocks"])
        names, marks = table["concept_id"].to_pylist(), table["checkpoint"].to_pylist()
        rows += list(zip(names, marks, arrays, strict=True))
    rows.sort(key=lambda row: row[:2])
    ids = [row[0] for row in rows]
    blocks = torch.from_numpy(np.stack([row[2] for row in rows]))
    order = batch_order(len(ids), steps, batch * world, seed)
    for step in range(start, steps):
        index = order[step].view(world, -1)[rank]
        yield Batch([ids[i] for i in index], blocks[index])


def streamed_batches(shard: Any, steps: int, batch: int, seed: int, start: int) -> Iterator[Batch]:
    """Batches of steps `start` … `steps` - 1, epoch after epoch from the shard."""
    step = start
    while step < steps:
        before = step
        for table in shard.iter_batches(
            batch_size=batch,
            batch_format="pyarrow",
            drop_last=True,
            local_shuffle_buffer_size=16 * batch,
            local_shuffle_seed=seed + step,
        ):
            if step >= steps:
                return
            yield Batch(
                table["concept_id"].to_pylist(), torch.from_numpy(to_numpy(table["blocks"]))
            )
            step += 1
        if step == before:
            raise ValueError(f"this worker's shard has fewer rows than a batch of {batch}")
