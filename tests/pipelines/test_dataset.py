"""A collection published and read back: exact, verified, and refused when it is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load

from pipelines.__main__ import main
from pipelines.dataset import DatasetError, export_dataset, import_dataset
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from tests.conftest import Finished

COLLECTED = ("adapters", "base", "concepts.parquet", "text.parquet")


@pytest.fixture(scope="module")
def run(finished: Finished) -> RunDir:
    return RunDir(str(finished.folder))


@pytest.fixture(scope="module")
def dataset(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    target = RunDir(str(tmp_path_factory.mktemp("dataset") / "published"))
    assert (
        main(["export-dataset", f"run_dir={run.uri}", f"target={target.uri}", "licence=cc0-1.0"])
        == 0
    )
    return target


def copy(dataset: RunDir, to: Path) -> RunDir:
    shutil.copytree(dataset.uri, to)
    return RunDir(str(to))


def test_the_manifest_is_readable_with_plain_tools(run: RunDir, dataset: RunDir) -> None:
    rows = pq.read_table(dataset.path("data")).to_pylist()
    folders = [
        n.rpartition("/")[0] for n in run.files("adapters") if n.endswith("model.safetensors")
    ]
    assert len(rows) == len(folders) and all(r["last"] for r in rows)
    for row in rows:
        home = f"adapters/{row['concept_id']}"
        assert run.read(f"{home}/adapter_model.safetensors") == row["adapter"]
        assert row["l1"] == run.read_json(f"{home}/metrics.json")["l1"]
        assert load(row["adapter"])
    card = dataset.read("README.md").decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc0-1.0" and front["size_categories"] == ["n<1K"]
    assert front["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert not dataset.files("pairs")


def test_the_round_trip_is_exact_and_the_run_goes_on(
    run: RunDir, dataset: RunDir, finished: Finished, tmp_path: Path
) -> None:
    again = RunDir(str(tmp_path / "run"))
    assert main(["import-dataset", f"source={dataset.uri}", f"run_dir={again.uri}"]) == 0
    for place in COLLECTED:
        assert again.files(place) == run.files(place) != []
        assert all(again.read(name) == run.read(name) for name in run.files(place))
    words = [*finished.words, f"run_dir={again.uri}"]
    assert main(["weights", *words]) == 0
    name = "weights/normalisation.safetensors"
    assert again.read(name) == run.read(name)
    # the pictures come back as they were
    assert main(["pairs", *words]) == 0
    assert again.files("pairs") == run.files("pairs") != []
    assert all(again.read(name) == run.read(name) for name in run.files("pairs"))
    assert main(["import-dataset", f"source={dataset.uri}", f"run_dir={again.uri}"]) == 1


def test_earlier_checkpoints_travel_too(run: RunDir, finished: Finished, tmp_path: Path) -> None:
    finished.copy(tmp_path / "run")
    mine = RunDir(str(tmp_path / "run"))
    home = next(n.rpartition("/")[0] for n in mine.files("adapters") if n.endswith("metrics.json"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        mine.write(f"{home}/step-000004/{name}", mine.read(f"{home}/{name}"))
    marker = mine.read_json("stages/gans.json")
    marker["files"] |= {n: mine.checksum(n) for n in mine.files("adapters") if "step-000004" in n}
    mine.write_json("stages/gans.json", marker)
    target, again = RunDir(str(tmp_path / "out")), RunDir(str(tmp_path / "again"))
    manifest = export_dataset(mine, target, "cc0-1.0")
    assert manifest["adapters"] == manifest["concepts"] + 1
    import_dataset(target, again)
    assert again.files("adapters") == mine.files("adapters")


def nothing_came(run: RunDir) -> bool:
    return not run.files("stages")


def test_damage_is_named_and_nothing_is_finished(dataset: RunDir, tmp_path: Path) -> None:
    shard = "data/train-00000.parquet"

    def refused(number: int, change: Any, match: str) -> None:
        mine = copy(dataset, tmp_path / f"damaged-{number}")
        change(mine)
        target = RunDir(str(tmp_path / f"run-{number}"))
        with pytest.raises(DatasetError, match=match):
            import_dataset(mine, target)
        assert nothing_came(target)

    def flip(mine: RunDir) -> None:
        data = bytearray(mine.read("base/translator.safetensors"))
        data[-1] ^= 1
        mine.write("base/translator.safetensors", bytes(data))

    refused(0, flip, r"base/translator.safetensors is damaged")
    refused(1, lambda m: m.write(shard, m.read(shard)[:-100]), rf"{shard} is damaged")
    refused(2, lambda m: m.delete(shard), rf"{shard} is missing, and the manifest names it")
    refused(3, lambda m: m.delete("manifest.json"), "manifest.json is missing: no dataset")

    def other_version(mine: RunDir) -> None:
        mine.write_json("manifest.json", mine.read_json("manifest.json") | {"version": 2})

    refused(4, other_version, "this code reads")

    def outside(mine: RunDir) -> None:
        manifest = mine.read_json("manifest.json")
        manifest["files"]["../elsewhere"] = "0" * 64
        mine.write_json("manifest.json", manifest)

    refused(5, outside, r"names '\.\./elsewhere', outside the dataset")


def rewritten(mine: RunDir, name: str, data: bytes) -> None:
    """Change a file and the manifest's hash of it, as who forges a dataset would."""
    import hashlib

    mine.write(name, data)
    manifest = mine.read_json("manifest.json")
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    mine.write_json("manifest.json", manifest)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("adapter", b"nonsense", "its SHA-256 is not the row's"),
        ("base_sha256", "0", "an adapter of another base"),
        ("concept_id", "../../evil", "no concept_id"),
        ("metrics", "{}", "is not the file of the run that was exported"),
    ],
)
def test_a_forged_row_is_refused(
    dataset: RunDir, tmp_path: Path, column: str, value: Any, says: str
) -> None:
    from pipelines.runtime.run_dir import parquet_bytes

    mine = copy(dataset, tmp_path / "forged")
    table = mine.read_table("data/train-00000.parquet")
    rows = table.to_pylist()
    rows[0][column] = value
    rewritten(
        mine,
        "data/train-00000.parquet",
        parquet_bytes(pa.Table.from_pylist(rows, table.schema)),
    )
    target = RunDir(str(tmp_path / "run"))
    with pytest.raises(DatasetError, match=says):
        import_dataset(mine, target)
    assert nothing_came(target) and not (tmp_path / "evil").exists()


def test_what_cannot_be_published(
    run: RunDir, dataset: RunDir, tmp_path: Path, finished: Finished
) -> None:
    with pytest.raises(DatasetError, match="is not empty"):
        export_dataset(run, dataset, "cc0-1.0")
    with pytest.raises(StageError, match="stage concepts has not finished"):
        export_dataset(RunDir(str(tmp_path / "empty")), RunDir(str(tmp_path / "out")), "cc0-1.0")
    finished.copy(tmp_path / "run")
    mine = RunDir(str(tmp_path / "run"))
    name = next(n for n in mine.files("adapters") if n.endswith("adapter_config.json"))
    mine.write(name, json.dumps({"r": 8}).encode())
    with pytest.raises(DatasetError, match=r"adapter_config\.json"):
        export_dataset(mine, RunDir(str(tmp_path / "out")), "cc0-1.0")
