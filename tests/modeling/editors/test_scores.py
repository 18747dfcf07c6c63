"""Scores of edits, and the choice of an editor by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling.editors.choice import PARTS, best_editor, overall
from modeling.editors.scores import NEUTRAL, EditScoreError, EditScores
from modeling.editors.sources import load_source
from tests.tiny_clip import save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(count: int) -> list[np.ndarray]:
    return [load_source(f"avatar-{i:07d}", "avatars", 32).image for i in range(count)]


def test_parts_by_hand(clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(clip).double()
    processor = CLIPProcessor.from_pretrained(clip)
    before, after = pictures(2), [p[::-1].copy() for p in pictures(2)]
    text = "a photo of a person, grey hair"
    texts = [NEUTRAL, text, "Good photo.", "Bad photo."]
    images = [Image.fromarray(p) for p in before + after]
    inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    scores = EditScores(str(clip))
    scores.clip.double()
    found = scores(before, after, text)
    for i in range(2):
        b, a = out.image_embeds[i], out.image_embeds[2 + i]
        neutral, target = out.text_embeds[0], out.text_embeds[1]
        expected = {
            "direction": torch.cosine_similarity(a - b, target - neutral, dim=0),
            "identity": a @ b,
            "quality": out.logits_per_image[2 + i, 2:].softmax(0)[0],
        }
        # embeddings are rounded to float32, and 14 · their products to the softmax
        assert found[i] == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-5)


def test_identity_by_another_model(clip: Path, tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    torch.manual_seed(0)
    size = {"height": 28, "width": 28}
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    ViTImageProcessor(size=size).save_pretrained(tmp_path)
    scores = EditScores(str(clip), str(tmp_path))
    before, after = pictures(2), [p[:, ::-1].copy() for p in pictures(2)]
    own, other = EditScores(str(clip))(before, after, "x"), scores(before, after, "x")
    assert [s["direction"] for s in own] == [s["direction"] for s in other]
    model, processor = Dinov2Model.from_pretrained(tmp_path), ViTImageProcessor(size=size)

    def tokens(images: list[np.ndarray]) -> torch.Tensor:
        inputs = processor([Image.fromarray(i) for i in images], return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).last_hidden_state[:, 0]

    expected = torch.cosine_similarity(tokens(before), tokens(after)).tolist()
    assert [s["identity"] for s in other] == pytest.approx(expected, abs=1e-5)
    assert [s["identity"] for s in own] != pytest.approx(expected, abs=1e-4)


def test_a_source_picture_goes_through_the_model_once(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = pictures(4), [p[::-1].copy() for p in pictures(4)]
    fresh = [
        EditScores(str(clip))([b], [a], "grey hair")[0] for b, a in zip(before, after, strict=True)
    ]
    scores = EditScores(str(clip))
    seen: list[int] = []
    images = scores._images

    def counted(batch: list[np.ndarray]) -> torch.Tensor:
        seen.append(len(batch))
        return images(batch)

    monkeypatch.setattr(scores, "_images", counted)
    scores(before[:2], after[:2], "red hair")
    found = scores(before[1:], after[1:], "grey hair")
    assert seen == [2, 2, 2, 3]  # the sources that are new, the edits; twice
    for one, other in zip(found, fresh[1:], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert scores(before, after, "grey hair")[0] == pytest.approx(fresh[0], abs=1e-5)
    assert seen[4:] == [4]


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EditScoreError, match=r"editing\.clip=.*cannot be loaded.*allow_download"):
        EditScores(str(tmp_path))


SCORE = st.floats(-1, 1)


@given(st.tuples(SCORE, SCORE, SCORE), st.integers(0, 2), st.floats(0.1, 1))
def test_a_better_part_is_never_a_worse_whole(
    values: tuple[float, float, float], which: int, exponent: float
) -> None:
    parts = dict(zip(PARTS, values, strict=True))
    better = parts | {PARTS[which]: min(1.0, parts[PARTS[which]] + 0.1)}
    exponents = {PARTS[which]: exponent}
    assert overall(better, exponents) >= overall(parts, exponents) >= 0


def test_exponents_weigh_the_parts() -> None:
    parts = {"direction": 0.25, "identity": 0.81, "quality": 0.5}
    assert overall(parts, {}) == pytest.approx(0.25 * 0.81 * 0.5)
    assert overall(parts, {"direction": 0.5, "quality": 0}) == pytest.approx(0.5 * 0.81)
    assert overall(parts | {"direction": -0.2}, {}) == 0


def test_failures_count_and_the_first_of_equals_wins() -> None:
    assert best_editor({"a": [0.5, 0.5], "b": [0.9]}, 2) == "a"
    assert best_editor({"a": [0.4, 0.4], "b": [0.9]}, 2) == "b"
    assert best_editor({"a": [0.5], "b": [0.5]}, 1) == "a"
    assert best_editor({"a": [], "b": [0.0, 0.0]}, 2) == "b"
    assert best_editor({"a": [], "b": []}, 2) == ""
