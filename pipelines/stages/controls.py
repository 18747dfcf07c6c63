"""The controls' adapters for held-out concepts, from passes over the collection.

Written before the methods are compared, as `controls/<concept_id>.safetensors` in the folder of the
stage that compares: the training adapter with the nearest text, and the ridge regression's. What is
everybody's (mean and deviation of the training adapters) is in `shared.safetensors`, written last.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load, save

from modeling.weights.controls import (
    ControlError,
    KernelRidge,
    WeightedSums,
    gram,
    landmarks_of,
    nearest_text,
)
from modeling.weights.normalisation import Normalisation, NormalisationSums
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.concepts import load_text
from pipelines.stages.training_set import TrainingSet
from pipelines.stages.weights import load_layout

RIDGE = "ridge"
FROM_COLLECTION = ("mean adapter", "nearest text", "noised nearest", RIDGE)
"""Controls that are made of the training adapters."""
SHARED = "shared"
HELD = 2**30
"""Bytes of predictions that a pass makes; more take several."""


def file_of(folder: str, concept_id: str) -> str:
    return f"{folder}/controls/{concept_id}.safetensors"


def write_controls(
    run_dir: RunDir, folder: str, concept_ids: Sequence[str], methods: Sequence[str]
) -> None:
    """Those of the methods that are made of the collection, unless all are there.

    Raises StageError for a ridge regression on one training adapter.
    """
    if not set(methods) & set(FROM_COLLECTION):
        return
    there = set(run_dir.files(f"{folder}/controls"))
    if {file_of(folder, i) for i in (*concept_ids, SHARED)} <= there:
        return
    training = TrainingSet(run_dir)
    layout, normalisation = load_layout(run_dir)
    log(f"controls of {len(concept_ids)} concepts, from {len(training.ids)} adapters")
    texts = load_text(run_dir)
    pooled, queries = texts.pooled(training.ids), texts.pooled(concept_ids)
    nearest = [training.ids[int(i)] for i in nearest_text(queries, pooled)]
    ridge = _ridge(training, normalisation, pooled) if RIDGE in methods else None
    sums = NormalisationSums.empty(layout)
    size = max(1, HELD // (8 * layout.mask.numel()))
    for at in range(0, len(concept_ids), size):
        group = slice(at, at + size)
        weights = (
            ridge.weights(queries[group], pooled) if ridge else pooled.new_zeros(0, len(pooled))
        )
        predicted = WeightedSums(weights.double(), layout.mask.shape)
        for part in training.parts() if ridge or not at else ():
            blocks = normalisation.apply(part)
            predicted.add(blocks)
            if not at:
                sums.add(blocks)
        made = predicted.finish() if ridge else None
        rows = training.rows(set(nearest[group]))
        for i, concept_id in enumerate(concept_ids[group]):
            tensors = {"nearest text": normalisation.apply(rows[nearest[at + i]])}
            if made is not None:
                tensors[RIDGE] = made[i].contiguous()
            run_dir.write(file_of(folder, concept_id), save(tensors))
    shared = {"mean adapter": sums.mean, "deviation": (sums.m2 / sums.count).sqrt()}
    run_dir.write(file_of(folder, SHARED), save({k: v.float() for k, v in shared.items()}))


def load_controls(run_dir: RunDir, folder: str, concept_id: str) -> dict[str, torch.Tensor]:
    """ "mean adapter", "nearest text", "ridge" and "deviation", normalised [N, b] each."""
    return {k: v for name in (SHARED, concept_id) for k, v in _read(run_dir, folder, name).items()}


def _read(run_dir: RunDir, folder: str, name: str) -> dict[str, torch.Tensor]:
    return dict(load(run_dir.read(file_of(folder, name))))


def _ridge(
    training: TrainingSet, normalisation: Normalisation, pooled: torch.Tensor
) -> KernelRidge:
    """Chosen on the landmarks, whose rows lie on the disk meanwhile."""
    chosen = landmarks_of(len(training.ids))
    shape = (len(chosen), normalisation.centre.numel())
    with tempfile.TemporaryFile() as spool:
        try:
            # now, as a mapped file that finds no room ends the process
            os.posix_fallocate(spool.fileno(), 0, 4 * math.prod(shape))
        except OSError as error:
            raise ArtifactError(
                f"no room for {4 * math.prod(shape) / 2**30:.1f} GiB of adapters in"
                f" {tempfile.gettempdir()}: set TMPDIR to a folder of a larger disk"
            ) from error
        rows = np.memmap(spool, np.float32, "r+", shape=shape)
        seen = 0
        for part in training.parts():
            inside = chosen[(chosen >= seen) & (chosen < seen + len(part))] - seen
            first = int((chosen < seen).sum())
            blocks = normalisation.apply(part[inside])
            rows[first : first + len(inside)] = blocks.flatten(1).numpy()
            seen += len(part)
        products = gram(torch.from_numpy(rows))
    try:
        return KernelRidge.choose(pooled[chosen], products)
    except ControlError as error:
        raise StageError(f"the control {RIDGE!r}: {error}") from error
