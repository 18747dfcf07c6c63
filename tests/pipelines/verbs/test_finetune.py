"""finetune: pairs of every kind, what is written, kept and gone on with, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling.images import encode_png
from pipelines import Run
from pipelines.__main__ import main
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.use.finetune_request import FinetuneError
from pipelines.use.given_pairs import from_folders, from_parquet


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve pictures and their negatives."""
    sources, edits = (tmp_path_factory.mktemp(name) for name in ("sources", "edits"))
    for i in range(12):
        Image.fromarray(noise(i)).save(sources / f"{i}.png")
        Image.fromarray(255 - noise(i)).save(edits / f"{i}.webp", lossless=True)
    return sources, edits


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["finetune", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_folders(
    own_run: RunDir,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["indigo hair", f"run_dir={own_run.uri}", f"out={out}", "steps=4", "keep=true"]
    words += [f"sources={folders[0]}", f"edits={folders[1]}"]
    (row,) = told(capsys, *words)
    assert row["scored_on"] == "2 other pictures" and row["steps"] == 4 and row["pairs"] == 12
    page = (out / "indigo-hair" / "index.html").read_text()
    assert "indigo hair" in page and page.count("<img") == 4 * 4 and "<svg" in page
    used = Run(own_run.uri)
    pairs = [(noise(i), 255 - noise(i)) for i in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)]
    expected = used.finetune("indigo hair", pairs, steps=4)
    back = used.load(out / "indigo-hair")
    assert all((back.weights[k] == v).all() for k, v in expected.weights.items())
    # the run's service knows it by the same name
    assert used.load(row["name"]).files() == back.files()
    capsys.readouterr()
    assert main(["adapters", f"run_dir={own_run.uri}", "of=service", "--json"]) == 0
    (stored,) = json.loads(capsys.readouterr().out)
    assert stored["name"] == row["name"] and stored["l1"] == row["l1_after"]
    # again: nothing is done, and another fine-tune does not write over it
    changed = (out / "indigo-hair" / "result.json").stat().st_mtime_ns
    assert told(capsys, *words) == [row]
    assert (out / "indigo-hair" / "result.json").stat().st_mtime_ns == changed
    assert main(["finetune", *(w.replace("steps=4", "steps=3") for w in words)]) == 2
    assert "holds another fine-tune" in capsys.readouterr().err


def test_an_editor_and_several_texts(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = sorted(t for t in Run(run.uri).concepts() if "hair" in t and "background" not in t)[:2]
    words = [*texts, f"run_dir={run.uri}", "steps=3", "count=8", "cluster.actors=1"]
    with ray_session(load_config(["preset=tiny", "cluster.actors=1"])):
        rows = told(capsys, *words, f"out={tmp_path / 'pool'}")
    assert [r["text"] for r in rows] == texts
    assert all(r["scored_on"] == "16 other pictures" for r in rows)
    # one by one, without Ray: the same
    (alone,) = told(capsys, texts[0], *words[2:], f"out={tmp_path / 'alone'}")
    name = f"{alone['folder']}/adapter_model.safetensors"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "pool" / name).read_bytes()


def test_a_parquet_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [
        {"image_id": str(i), "source": encode_png(noise(i)), "edited": encode_png(255 - noise(i))}
        for i in (1, 0)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    (first, second) = from_parquet(str(tmp_path / "pairs.parquet"), 32)
    np.testing.assert_array_equal(first[0], noise(0))
    np.testing.assert_array_equal(second[1], 255 - noise(1))
    with pytest.raises(FinetuneError, match="no column edited"):
        pq.write_table(pa.table({"source": [b""]}), tmp_path / "half.parquet")
        from_parquet(str(tmp_path / "half.parquet"), 32)
    with pytest.raises(FinetuneError, match="row 1: "):
        rows[0]["edited"] = b"no picture"
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bad.parquet")
        from_parquet(str(tmp_path / "bad.parquet"), 32)
    for wrong in (tmp_path / "none.parquet", folders[0] / "0.png"):
        with pytest.raises(FinetuneError, match="pairs="):
            from_parquet(str(wrong), 32)


@pytest.fixture
def copied(folders: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    yield tuple(Path(shutil.copytree(f, tmp_path / str(i))) for i, f in enumerate(folders))


def test_folders_that_do_not_match_are_listed(copied: tuple[Path, Path]) -> None:
    sources, edits = copied
    (edits / "3.webp").rename(edits / "three.webp")
    with pytest.raises(FinetuneError, match=r"sources: 1 without a partner: 3\.png"):
        from_folders(str(sources), str(edits), 32)
    (edits / "three.webp").rename(edits / "3.webp")
    (edits / "more.png").write_bytes(b"")
    with pytest.raises(FinetuneError, match=r"edits: 1 without a partner: more\.png"):
        from_folders(str(sources), str(edits), 32)
    (edits / "more.png").rename(edits / "3.png")
    with pytest.raises(FinetuneError, match=r"3\.png and 3\.webp: which of them"):
        from_folders(str(sources), str(edits), 32)
    (edits / "3.webp").unlink()
    with pytest.raises(FinetuneError, match=r"1 pairs cannot be read: 3 \(the image is empty"):
        from_folders(str(sources), str(edits), 32)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["sources=x"], "go together"),
        (["sources=x", "edits=y", "editor=avatar"], "give one of"),
        (["editor=photoshop"], "must be one of"),
        (["editor=avatar"], "cannot make this edit"),
        (["pairs=x", "steps=many"], "steps=many"),
        (["pairs=x", "keep=maybe"], "must be true or false"),
        (["pairs=x", "second text"], "several take an editor"),
    ],
)
def test_what_is_refused(
    more: list[str], reason: str, run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a text that no editor knows", f"run_dir={run.uri}", f"out={tmp_path}", *more]
    assert main(["finetune", *words]) == 2
    assert reason in capsys.readouterr().err


def test_a_fine_tune_that_fails_is_told(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sepia", f"run_dir={run.uri}", f"out={tmp_path}", "pairs=nowhere.parquet"]
    assert main(["finetune", *words, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert "nowhere.parquet" in row["error"]
