"""The collected adapters of a small run, whole."""

from __future__ import annotations

import torch

from pipelines.runtime.run_dir import RunDir
from pipelines.stages.training_set import TrainingSet


def load_blocks(run: RunDir, split: str) -> tuple[list[str], torch.Tensor]:
    """concept_ids and raw blocks [M, N, b] of each concept's last checkpoint in one split."""
    collected = TrainingSet(run, split)
    return collected.ids, torch.cat(list(collected.parts()))
