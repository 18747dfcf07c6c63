"""Editors of few steps: each recipe on a tiny model of its architecture; LoRA and scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.core import EditorOptions, edit_seed
from modeling.editors.diffusion.costs import ARCHITECTURES
from modeling.editors.diffusion.recipes import recipes
from modeling.editors.interface import EditError, EditResult, Source
from modeling.editors.registry import DIFFUSION, EXACT, METHODS, make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
SOURCES = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(2)]
LARGE = [load_source(s.image_id, "avatars", 64) for s in SOURCES]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd_turbo": tiny_diffusion.stable_diffusion,
    "sdxl_turbo": tiny_diffusion.sdxl,
    "sdxl_lightning": tiny_diffusion.sdxl,
    "lcm": tiny_diffusion.stable_diffusion,
    "lcm_instruct": tiny_diffusion.instruct_pix2pix,
    "flux2_klein": tiny_diffusion.flux2_klein,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    return tiny_diffusion.lora(folder)


@pytest.fixture(scope="module")
def stable_diffusion(folder: Path) -> Path:
    return tiny_diffusion.stable_diffusion(folder / "plain")


def pictures(editor: Any, sources: list[Source] = SOURCES) -> np.ndarray:
    out = []
    for result in editor.edit(sources, GREY):
        assert isinstance(result, EditResult), result
        out.append(result.image)
    return np.stack(out).astype(np.int16)


def test_recipes_say_what_an_editor_can_be_told() -> None:
    known = {f.name for f in fields(EditorOptions)}
    assert recipes().keys() == MAKERS.keys()
    for name, recipe in recipes().items():
        assert name in DIFFUSION and name not in EXACT and recipe.method in METHODS
        assert recipe.options.keys() <= known and recipe.architecture in ARCHITECTURES
        assert 1 <= recipe.options["steps"] <= 8 and recipe.side % 64 == 0
        EditorOptions(**recipe.options)


@pytest.mark.parametrize("name", MAKERS)
def test_each_recipe_edits_with_a_model_of_its_architecture(
    name: str, folder: Path, lora: Path
) -> None:
    recipe = recipes()[name]
    # FLUX.2 takes no picture below 64 pixels
    options: dict[str, Any] = {"model": str(MAKERS[name](folder / name)), "size": 64}
    if "lora" in recipe.options:
        channels = 8 if name == "lcm_instruct" else 4
        options["lora"] = str(lora) if channels == 4 else str(tiny_diffusion.lora(folder, 8))
        if name == "sdxl_lightning":  # the tiny SDXL's texts are wider than the LoRA's
            options["lora"] = ""
    editor: Any = make_editor(name, **options)
    assert editor.name == name
    assert int(editor.setting("steps", 50)) == recipe.options["steps"]
    assert editor.setting("guidance", 7.5) == recipe.options["guidance"]
    wanted = recipe.options.get("scheduler", "").split()
    if wanted:
        assert type(editor.pipeline.scheduler).__name__ == wanted[0]
    if len(wanted) > 1:
        assert editor.pipeline.scheduler.config.timestep_spacing == "trailing"
    calls: list[int] = []
    editor.denoiser.register_forward_hook(lambda m, i, o: calls.append(len(o[0])))
    assert (pictures(editor) != np.stack([s.image for s in SOURCES])).any()
    # what a plan counts with: evaluations of one picture
    assert sum(calls) / len(SOURCES) == recipe.evaluations


def test_an_option_that_is_given_goes_before_the_recipe_s(stable_diffusion: Path) -> None:
    editor: Any = make_editor("sd_turbo", model=str(stable_diffusion), steps=2)
    assert editor.setting("steps", 50) == 2 and editor.setting("strength", 0.6) == 0.5


def test_a_lora_is_merged_as_diffusers_applies_it(stable_diffusion: Path, lora: Path) -> None:
    options: dict[str, Any] = {"model": str(stable_diffusion), "steps": 2, "strength": 1.0}
    merged: Any = make_editor("img2img", lora=str(lora), **options)
    assert not any("lora" in name for name, _ in merged.denoiser.named_parameters())
    beside: Any = make_editor("img2img", **options)
    plain = pictures(beside)
    beside.pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    applied = pictures(beside)
    assert np.abs(pictures(merged) - applied).max() <= 1
    assert np.abs(applied - plain).max() > 1


def test_a_folder_of_the_hub_s_form_names_its_file(stable_diffusion: Path, lora: Path) -> None:
    editor: Any = make_editor(
        "img2img", model=str(stable_diffusion), lora=f"{lora.parent}:{lora.name}"
    )
    assert editor.pipeline.unet is not None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lora", "nowhere.safetensors", r"cannot load the LoRA .*no such file.*editing\.loras\."),
        ("lora", "somebody/lora", "neither FILE.safetensors nor OWNER/NAME:FILE"),
        ("lora", "pickle.bin", "neither FILE.safetensors nor OWNER/NAME:FILE"),
        ("lora", "somebody/lora:x.safetensors", r"cannot load the LoRA .*allow_download=true"),
        ("scheduler", "EulerScheduler", "diffusers has no scheduler 'EulerScheduler'"),
        ("scheduler", "UNet2DConditionModel", "diffusers has no scheduler"),
        ("scheduler", "LCMScheduler spacing=2", "LCMScheduler has no setting 'spacing'"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    stable_diffusion: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(EditError, match=message):
        make_editor("img2img", model=str(stable_diffusion), **{key: value})


def test_a_lora_of_another_model_is_refused(
    stable_diffusion: Path, tmp_path: Path, lora: Path
) -> None:
    from safetensors.torch import load_file, save_file

    damaged, foreign = tmp_path / "damaged.safetensors", tmp_path / "foreign.safetensors"
    damaged.write_bytes(lora.read_bytes()[:-100])
    weights = load_file(lora)
    save_file({k.replace("attn", "nowhere"): v for k, v in weights.items()}, foreign)
    for file in (damaged, foreign):
        with pytest.raises(EditError, match="cannot load the LoRA"):
            make_editor("img2img", model=str(stable_diffusion), lora=str(file))


def test_ddim_inversion_keeps_its_own_scheduler(stable_diffusion: Path) -> None:
    with pytest.raises(EditError, match="pix2pix_zero samples by DDIM"):
        make_editor("pix2pix_zero", model=str(stable_diffusion), scheduler="LCMScheduler")


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_klein_edits_as_the_bare_pipeline_does(folder: Path, guidance: float) -> None:
    import diffusers

    model = tiny_diffusion.flux2_klein(folder / "bare")
    bare = diffusers.Flux2KleinPipeline.from_pretrained(model, is_distilled=guidance == 1.0)
    bare.save_pretrained(model)
    editor: Any = make_editor("flux2_klein", model=str(model), guidance=guidance)
    made = pictures(editor, LARGE)
    bare.set_progress_bar_config(disable=True)
    for source, picture in zip(LARGE, made, strict=True):
        seed = edit_seed(source.image_id, GREY.concept_id, 0)
        (wanted,) = bare(
            image=Image.fromarray(source.image),
            prompt="change the face of the person: grey hair",
            guidance_scale=guidance,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(seed),
        ).images
        assert np.abs(picture - np.asarray(wanted).astype(np.int16)).max() <= 1
