"""Batches of weight blocks for the weight generator's training, streamed from Ray Data.

A dataset whose blocks fit CACHE_BYTES is streamed once into the worker's memory; batches then
depend on seed and step alone, so that a resumed training sees what an uninterrupted one would. A
larger one is sharded over the workers and streamed anew each epoch with a local shuffle; a resumed
training then starts at a fresh epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeling.targets.adapter_training import batch_order
from pipelines.runtime.tensors import to_numpy

CACHE_BYTES = 4 * 2**30
"""In memory: files are compressed, and adapters of few steps to a hundredth."""


class Batch(NamedTuple):
    concept_ids: list[str]
    blocks: Tensor
    """Raw weights [B, N, b]."""


def cached_batches(
    shard: Any, steps: int, batch: int, seed: int, start: int, rank: int, world: int
) -> Iterator[Batch]:
    """Batches of steps `start` … `steps` - 1; this rank's share of a global batch."""
    read: deque[np.ndarray] = deque()
    rows: list[tuple[str, int]] = []
    for table in shard.iter_batches(batch_size=64, batch_format="pyarrow"):
        read.append(to_numpy(table["blocks"]))
        rows += zip(table["concept_id"].to_pylist(), table["checkpoint"].to_pylist(), strict=True)
    blocks = _joined(read)
    # whatever order they came in
    place = sorted(range(len(rows)), key=lambda i: rows[i])
    order = batch_order(len(rows), steps, batch * world, seed)
    for step in range(start, steps):
        index = [place[i] for i in order[step].view(world, -1)[rank].tolist()]
        yield Batch([rows[i][0] for i in index], blocks[index])


def _joined(parts: deque[np.ndarray]) -> Tensor:
    """All rows in one tensor; a part is let go as it is copied, so that nothing is there twice."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    at = 0
    while parts:
        part = parts.popleft()
        whole[at : at + len(part)] = part
        at += len(part)
    return torch.from_numpy(whole)


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
