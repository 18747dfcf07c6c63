"""text.parquet: what is written is read again, from a file of several batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.text import TextColumns, TextEncoder
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
