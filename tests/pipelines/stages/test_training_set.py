"""The collection part by part: which rows of the tables it is, and in which order."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.stages.training_set import TrainingSet
from tests.object_store import object_store

ROWS = [
    [("a", 5, "train"), ("a", 10, "train"), ("v", 10, "val")],
    [("b", 5, "train")],  # its last checkpoint is in the next part
    [("b", 10, "train"), ("c", 10, "train")],
    [("w", 10, "val")],
    *([(f"more-{i}", 10, "train")] for i in range(6)),
]
LAST = ["a", "b", "c", *(f"more-{i}" for i in range(6))]


@pytest.fixture(params=["folder", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunDir]:
    if request.param == "folder":
        yield filled(RunDir(str(tmp_path)))
        return
    with object_store():
        bucket = f"set-{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(bucket)
        yield filled(RunDir(f"s3://{bucket}/run"))


def value(concept_id: str, step: int) -> np.ndarray:
    """Blocks [2, 3] that nobody else has."""
    return np.full((2, 3), 100 * sum(map(ord, concept_id)) + step, np.float32)


def filled(run: RunDir) -> RunDir:
    for part, rows in enumerate(ROWS):
        ids, steps, splits = (list(column) for column in zip(*rows, strict=True))
        blocks = np.stack([value(i, s) for i, s, _ in rows])
        columns = {"concept_id": ids, "checkpoint": steps, "split": splits}
        columns["blocks"] = pa.FixedShapeTensorArray.from_numpy_ndarray(blocks)
        run.write_table(f"weights/blocks/part-{part:05d}.parquet", pa.table(columns))
    return run


def test_last_checkpoints_in_the_order_of_the_tables(run: RunDir) -> None:
    collected = TrainingSet(run)
    assert collected.ids == LAST
    wanted = torch.from_numpy(np.stack([value(i, 10) for i in LAST]))
    assert torch.equal(torch.cat(list(collected.parts())), wanted)
    assert torch.equal(torch.cat(list(collected.parts())), wanted)  # and once more
    assert TrainingSet(run, "val").ids == ["v", "w"]


def test_some_rows(run: RunDir) -> None:
    found = TrainingSet(run).rows({"more-3", "b", "a"})
    assert found.keys() == {"more-3", "b", "a"}
    for concept_id, blocks in found.items():
        assert torch.equal(blocks, torch.from_numpy(value(concept_id, 10)))
    assert TrainingSet(run).rows(set()) == {}


def test_what_is_missing_or_damaged(run: RunDir) -> None:
    with pytest.raises(ArtifactError, match="has no blocks of test concepts"):
        TrainingSet(run, "test")
    whole = run.read("weights/blocks/part-00000.parquet")
    run.write("weights/blocks/part-00000.parquet", whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"part-00000\.parquet is damaged"):
        TrainingSet(run)
    run.delete("weights")
    with pytest.raises(ArtifactError, match="has no blocks of train concepts"):
        TrainingSet(run)
