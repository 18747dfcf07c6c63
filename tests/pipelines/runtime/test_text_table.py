"""text.parquet: what is written is read again, from a file of several batches."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.text import TextColumns, TextEncoder
from pipelines.runtime import text_table, unpacked_text
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.text_table import TEXT, Texts, writing_text
from tests.rounding import rounding

TEXTS = ["indigo hair", "a sketch of an old man with a grey beard", "neon", "two scars, mosaic"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.set_num_threads(1)
    return TextEncoder()


def in_another_batch(encoder: TextEncoder, values: torch.Tensor) -> float:
    """What a float32 embedding may differ by: in each layer, a sum over its width."""
    layers: int = encoder.model.config.num_hidden_layers
    return rounding(layers * encoder.dim, values)


def test_batches_come_back_as_the_encoder_made_them(encoder: TextEncoder, tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    with writing_text(run) as table:
        table.add(["a", "b", "c"], encoder.encode_columns(TEXTS[:3], batch=2))
        table.add([], encoder.encode_columns([]))
        table.add(["d"], encoder.encode_columns(TEXTS[3:]))
    texts = Texts(run)
    assert list(texts) == ["a", "b", "c", "d"] and len(texts) == 4
    for one, wanted in zip(texts.values(), encoder.encode(TEXTS), strict=True):
        assert one.tokens.shape == wanted.tokens.shape and one.tokens.dtype == torch.float32
        for ours, theirs in ((one.tokens, wanted.tokens), (one.pooled, wanted.pooled)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=in_another_batch(encoder, theirs))
    texts["a"].tokens.zero_()  # a copy
    assert texts["a"].tokens.abs().sum() > 0
    with pytest.raises(KeyError):
        texts["e"]


@pytest.fixture
def table(tmp_path: Path) -> RunDir:
    """A run whose table is of 5 texts, in two batches."""
    run, rng = RunDir(str(tmp_path / "run")), np.random.default_rng(0)
    with writing_text(run) as table:
        for ids, lengths in ((["a", "b"], [2, 3]), (["c", "d", "e"], [1, 4, 2])):
            tokens = rng.standard_normal((sum(lengths), 4), np.float32)
            pooled = rng.standard_normal((len(ids), 4), np.float32)
            table.add(ids, TextColumns(np.array(lengths, np.int32), tokens, pooled))
    return run


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are unpacked; every table is."""
    monkeypatch.setattr(text_table, "MAPPED", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"denoised-weights-{os.getuid()}"


def test_a_large_table_is_mapped(table: RunDir, scratch: Path) -> None:
    mapped = Texts(table)
    (folder,) = (f for f in scratch.iterdir() if f.is_dir())
    assert isinstance(mapped._tokens, np.memmap)
    unpacked = (folder / "tokens").stat().st_mtime_ns
    os.utime(folder, (0, 0))
    again = Texts(table)  # another process of the node
    assert (folder / "tokens").stat().st_mtime_ns == unpacked and folder.stat().st_mtime > 0
    text_table.MAPPED = 2**28
    held = Texts(table)
    assert list(mapped) == list(again) == list(held) == ["a", "b", "c", "d", "e"]
    for one in held:
        for texts in (mapped, again):
            assert torch.equal(texts[one].tokens, held[one].tokens)
            assert torch.equal(texts[one].pooled, held[one].pooled)
    assert mapped.dim == held.dim == 4
    wanted = torch.stack([held[i].pooled for i in ("d", "a")])
    assert torch.equal(held.pooled(["d", "a"]), wanted)
    assert torch.equal(mapped.pooled(["d", "a"]), wanted)


def test_another_table_is_unpacked_anew_and_old_ones_go(table: RunDir, scratch: Path) -> None:
    Texts(table)
    (first,) = (f for f in scratch.iterdir() if f.is_dir())
    columns = TextColumns(np.ones(1, np.int32), np.ones((1, 4), np.float32), np.ones((1, 4)))
    with writing_text(table) as writer:
        writer.add(["other"], columns)
    assert list(Texts(table)) == ["other"] and first.is_dir()
    os.utime(first, (0, 0))
    with writing_text(table) as writer:
        writer.add(["third"], columns)
    assert list(Texts(table)) == ["third"] and not first.exists()


def test_no_room_to_unpack(table: RunDir, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked_text.np, "ascontiguousarray", full)
    with pytest.raises(ArtifactError, match=r"no room to unpack .* set TMPDIR"):
        Texts(table)
    assert not [f for f in scratch.iterdir() if f.is_dir()]


def full(_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_is_somebody_elses(
    table: RunDir, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.mkdir()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    scratch.rename(scratch.with_name(f"denoised-weights-{uid + 1}"))
    with pytest.raises(ArtifactError, match="another user's: set TMPDIR"):
        Texts(table)


def test_columns_keep_rows(encoder: TextEncoder) -> None:
    columns = encoder.encode_columns(TEXTS)
    kept = columns.keep(np.array([False, True, False, True]))
    again = encoder.encode_columns([TEXTS[1], TEXTS[3]])
    assert kept.lengths.tolist() == again.lengths.tolist()
    bound = in_another_batch(encoder, torch.from_numpy(again.tokens))
    np.testing.assert_allclose(kept.tokens, again.tokens, rtol=0, atol=bound)
    length = rounding(encoder.dim, torch.ones(1))
    np.testing.assert_allclose(np.linalg.norm(kept.unit(), axis=1), 1, rtol=0, atol=length)
    with pytest.raises(ValueError, match="text 1 is empty"):
        encoder.encode_columns(["x", " "])


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    columns = TextColumns(
        np.array([1], np.int32), np.ones((1, 4), np.float32), np.ones((1, 4), np.float32)
    )
    with writing_text(run) as table:
        table.add(["first"], columns)
    with pytest.raises(RuntimeError, match="killed"), writing_text(run) as table:
        table.add(["second"], columns)
        raise RuntimeError("killed")
    assert list(Texts(run)) == ["first"]
    assert [p.name for p in tmp_path.iterdir()] == [TEXT]
    whole = (tmp_path / TEXT).read_bytes()
    (tmp_path / TEXT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"text\.parquet is damaged"):
        Texts(run)
    run.delete(TEXT)
    with pytest.raises(ArtifactError, match=r"text\.parquet is missing"):
        Texts(run)
