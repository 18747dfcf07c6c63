"""Img2img with the pipelines that diffusers finds for newer models, and its strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.core import EditorOptions, edit_seed
from modeling.editors.diffusion.img2img import ImageToImage
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
SOURCES = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]
MAKERS: dict[str, Any] = {
    "StableDiffusionXLImg2ImgPipeline": tiny_diffusion.sdxl,
    "FluxImg2ImgPipeline": tiny_diffusion.flux,
    "FluxKontextPipeline": lambda folder: tiny_diffusion.flux(folder, kontext=True),
}
TURBO: dict[str, Any] = {"steps": 2, "strength": 0.5, "guidance": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {k: make(tmp_path_factory.mktemp("newer")) for k, make in MAKERS.items()}


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("sd"))


def pictures(editor: ImageToImage, first: int = 0) -> np.ndarray:
    out = []
    for result in editor.edit(SOURCES[first:], GREY):
        assert isinstance(result, EditResult), result
        out.append(result.image)
    return np.stack(out).astype(np.int16)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_newer_model_edits_as_the_bare_pipeline_does(models: dict[str, Path], kind: str) -> None:
    import diffusers

    editor = ImageToImage(EditorOptions(model=str(models[kind]), batch=2, **TURBO))
    assert type(editor.pipeline).__name__ == kind
    made = pictures(editor)
    assert np.abs(pictures(editor, first=2) - made[2:]).max() <= 1
    bare = getattr(diffusers, kind).from_pretrained(models[kind])
    bare.set_progress_bar_config(disable=True)
    keywords: dict[str, Any] = {"strength": 0.5, "prompt": "a photo of a person, grey hair"}
    if "Flux" in kind:
        keywords |= {"height": 32, "width": 32}
    if "Kontext" in kind:
        del keywords["strength"]
        keywords |= {"max_area": 32 * 32, "_auto_resize": False}
        keywords["prompt"] = "change the face of the person: grey hair"
    seed = edit_seed(SOURCES[1].image_id, GREY.concept_id, 0)
    (wanted,) = bare(
        image=Image.fromarray(SOURCES[1].image),
        guidance_scale=0.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(seed),
        **keywords,
    ).images
    assert wanted.size == (32, 32)
    assert np.abs(made[1] - np.asarray(wanted).astype(np.int16)).max() <= 1


def test_the_denoiser_and_what_it_is_told(models: dict[str, Path]) -> None:
    for kind, part, style in (
        ("StableDiffusionXLImg2ImgPipeline", "unet", "prompt"),
        ("FluxImg2ImgPipeline", "transformer", "prompt"),
        ("FluxKontextPipeline", "transformer", "instruction"),
    ):
        editor = ImageToImage(EditorOptions(model=str(models[kind])))
        assert editor.denoiser is getattr(editor.pipeline, part)
        assert editor.style == style
        assert editor.text(GREY).startswith("change the face") == (style == "instruction")
        assert editor.multiple == (4 if "Flux" in kind else 2)


def test_a_transformer_takes_an_attention_backend(models: dict[str, Path]) -> None:
    options: dict[str, Any] = {"model": str(models["FluxImg2ImgPipeline"]), **TURBO}
    chosen = ImageToImage(EditorOptions(attention="_native_math", **options))
    backends = {
        str(m.processor._attention_backend.value)
        for m in chosen.denoiser.modules()
        if hasattr(getattr(m, "processor", None), "_attention_backend")
    }
    assert backends == {"_native_math"}
    plain = ImageToImage(EditorOptions(**options))
    assert np.abs(pictures(chosen) - pictures(plain)).max() <= 1


def test_guidance_zero_is_not_the_default(stable_diffusion: Path) -> None:
    editors = [
        ImageToImage(EditorOptions(model=str(stable_diffusion), steps=4, guidance=g))
        for g in (0.0, -1.0, 7.5)
    ]
    zero, default, given = (pictures(e) for e in editors)
    assert (default == given).all()
    assert (zero != default).any()


@pytest.mark.parametrize(
    ("steps", "strength", "fails"),
    [(1, 1.0, False), (2, 0.5, False), (1, 0.9, True), (0, 0.019, True), (0, 0.02, False)],
)
def test_strength_leaves_a_step_or_is_refused(
    stable_diffusion: Path, steps: int, strength: float, fails: bool
) -> None:
    options = EditorOptions(model=str(stable_diffusion), steps=steps, strength=strength)
    if fails:
        with pytest.raises(EditError, match=r"img2img: strength 0\.\d+ of \d+ steps is no step"):
            ImageToImage(options)
    else:
        assert pictures(ImageToImage(options)).shape == (3, 32, 32, 3)


def test_more_strength_changes_more(stable_diffusion: Path) -> None:
    changes = []
    for strength in (0.1, 0.5, 1.0):
        options = EditorOptions(model=str(stable_diffusion), steps=10, strength=strength)
        noise = np.abs(pictures(ImageToImage(options)) - pictures_decoded(stable_diffusion)).mean()
        changes.append(noise)
    assert changes == sorted(changes)


def pictures_decoded(model: Path) -> np.ndarray:
    """The sources through the (untrained) VAE alone: what no noise at all would give."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model / "vae")
    batch = torch.from_numpy(np.stack([s.image for s in SOURCES])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        out = vae.decode(vae.encode(batch).latent_dist.mode()).sample
    return (out.clamp(-1, 1).permute(0, 2, 3, 1).numpy() * 127.5 + 127.5).round().astype(np.int16)


@pytest.mark.parametrize("kind", ["Flux2Pipeline", "QwenImageEditPipeline"])
def test_editors_of_one_picture_a_call_are_refused(
    kind: str, stable_diffusion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    def load(self: ImageToImage, model: str) -> Any:
        # the class alone: it is refused before its weights matter
        return getattr(diffusers, kind).__new__(getattr(diffusers, kind))

    monkeypatch.setattr(ImageToImage, "load", load)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda self, device: self)
    with pytest.raises(EditError, match=f"cannot use a {kind}: it does not edit several"):
        make_editor("img2img", model=str(stable_diffusion))
