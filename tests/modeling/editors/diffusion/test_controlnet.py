"""ControlNet: edges, the bare pipeline's picture, and pairs of models that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.controlnet import ControlNet, edges
from modeling.editors.diffusion.core import EditorOptions, edit_seed
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
SOURCES = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("controlnet")
    return {
        "model": str(tiny_diffusion.stable_diffusion(folder)),
        "extra": str(tiny_diffusion.controlnet(folder)),
    }


def pictures(results: list[EditResult | EditError]) -> np.ndarray:
    out = []
    for result in results:
        assert isinstance(result, EditResult), result
        out.append(result.image)
    return np.stack(out).astype(np.int16)


def test_edges_are_where_the_picture_changes() -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:, 0] = 255  # red: an edge in one channel is an edge
    found = np.asarray(edges(Image.fromarray(halves)))
    assert found.shape == (32, 32, 3)
    assert set(np.unique(found)) == {0, 255}
    assert set(np.nonzero(found.any(axis=(0, 2)))[0]) <= {15, 16}
    assert not np.asarray(edges(Image.new("RGB", (32, 32), "teal"))).any()


def test_the_picture_is_that_of_the_bare_pipeline(models: dict[str, str]) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline

    editor = ControlNet(EditorOptions(batch=2, steps=4, **models))
    made = pictures(editor.edit(SOURCES, GREY))
    bare = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        models["model"], controlnet=ControlNetModel.from_pretrained(models["extra"])
    )
    bare.set_progress_bar_config(disable=True)
    image = Image.fromarray(SOURCES[2].image)
    (wanted,) = bare(
        prompt="a photo of a person, grey hair",
        image=image,
        control_image=edges(image),
        strength=0.8,
        guidance_scale=7.5,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(edit_seed(SOURCES[2].image_id, GREY.concept_id, 0)),
    ).images
    assert np.abs(made[2] - np.asarray(wanted).astype(np.int16)).max() <= 1


def test_the_edges_are_seen(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = make_editor("controlnet", steps=4, **models)
    usual = pictures(editor.edit(SOURCES, GREY))
    module = "modeling.editors.diffusion.controlnet.edges"
    monkeypatch.setattr(module, lambda image: Image.new("RGB", image.size))
    assert (pictures(editor.edit(SOURCES, GREY)) != usual).any()


def test_edges_are_found_at_the_editing_size(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def seen(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return edges(image)

    monkeypatch.setattr("modeling.editors.diffusion.controlnet.edges", seen)
    results = make_editor("controlnet", steps=2, size=48, **models).edit(SOURCES[:1], GREY)
    assert pictures(results).shape == (1, 32, 32, 3)
    assert sizes == [(48, 48)]


def test_models_that_do_not_fit_are_refused(models: dict[str, str], tmp_path: Path) -> None:
    instructed = str(tiny_diffusion.instruct_pix2pix(tmp_path))
    with pytest.raises(EditError, match=r"is not for .*: in_channels 4, not 8"):
        make_editor("controlnet", model=instructed, extra=models["extra"])
    with pytest.raises(EditError, match=r"is not for .*: cross_attention_dim 32, not 64"):
        make_editor("controlnet", model=str(tiny_diffusion.sdxl(tmp_path)), extra=models["extra"])
    missing = str(tmp_path / "nothing")
    with pytest.raises(EditError, match=r"no such folder.*editing\.extras\.controlnet=FOLDER"):
        make_editor("controlnet", model=models["model"], extra=missing)
    with pytest.raises(EditError, match=r"editing\.extras\.controlnet=FOLDER"):
        make_editor("controlnet", model=models["model"], extra=models["model"])
    with pytest.raises(EditError, match=r"controlnet: strength 0\.1 of 5 steps is no step"):
        make_editor("controlnet", steps=5, strength=0.1, **models)
