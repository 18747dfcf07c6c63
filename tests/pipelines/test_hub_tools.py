"""A published dataset in Hugging Face's own libraries: `datasets` opens it, its card is valid."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from safetensors.torch import load

from pipelines.dataset import export_dataset
from pipelines.runtime.run_dir import RunDir
from tests.conftest import Finished

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")


@pytest.fixture(scope="module")
def dataset(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    target = RunDir(str(tmp_path_factory.mktemp("dataset") / "published"))
    export_dataset(RunDir(str(finished.folder)), target, "cc0-1.0")
    return target


def test_datasets_opens_the_folder(dataset: RunDir, tmp_path: Path) -> None:
    opened = load_dataset(dataset.uri, split="train", cache_dir=str(tmp_path))
    rows = pq.read_table(dataset.path("data")).to_pylist()
    assert opened.num_rows == len(rows)
    assert opened.column_names == list(rows[0])
    for theirs, ours in zip(opened, rows, strict=True):
        assert theirs == ours
    assert load(opened[0]["adapter"])
    # the rest of the folder, tables of texts and JSON, is not taken for rows
    assert list(load_dataset(dataset.uri, cache_dir=str(tmp_path))) == ["train"]
    streamed = load_dataset(dataset.uri, split="train", streaming=True, cache_dir=str(tmp_path))
    assert next(iter(streamed)) == rows[0]


def test_the_card_is_one(dataset: RunDir) -> None:
    """What the hub checks besides is its server's: `DatasetCard.validate` asks it."""
    card = DatasetCard.load(dataset.path("README.md"))
    assert card.data.license == "cc0-1.0"
    assert set(card.data.size_categories) <= set(SIZES)
    assert card.data.pretty_name and card.data.tags
    assert card.data.to_dict()["configs"] == [
        {"config_name": "default", "data_files": "data/*.parquet"}
    ]
    assert DatasetCard(str(card)).data.to_dict() == card.data.to_dict()
    # what a user would read is there, and no placeholder is left
    assert json.loads(dataset.read("manifest.json"))["adapters"] and "$" not in card.text
