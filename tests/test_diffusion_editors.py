"""Diffusion editors on tiny random pipelines, saved and loaded by the real code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.concepts import Concept
from modeling.diffusion_editors.controlnet import edges
from modeling.diffusion_editors.core import DiffusionEditor, EditorOptions, edit_seed, unflagged
from modeling.diffusion_editors.instructions import TEMPLATES, instruction
from modeling.editors import EditError, EditResult, Source, load_source, make_editor
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
STEPS = 4


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models, by what they are."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "stable_diffusion": tiny_diffusion.stable_diffusion(folder),
        "instruct_pix2pix": tiny_diffusion.instruct_pix2pix(folder),
        "controlnet": tiny_diffusion.controlnet(folder),
        "sdxl": tiny_diffusion.sdxl(folder),
    }


def options(models: dict[str, Path], name: str) -> dict[str, Any]:
    of = {
        "img2img": {"model": "stable_diffusion"},
        "instruct_pix2pix": {"model": "instruct_pix2pix"},
        "instruct_diffusion": {"model": "instruct_pix2pix"},
        "controlnet": {"model": "stable_diffusion", "extra": "controlnet"},
    }
    return {"steps": STEPS} | {key: str(models[m]) for key, m in of[name].items()}


def portraits(count: int, size: int = 32) -> list[Source]:
    return [load_source(f"avatar-{i:07d}", "avatars", size) for i in range(count)]


def pictures(results: list[EditResult | EditError]) -> list[np.ndarray]:
    assert all(isinstance(r, EditResult) for r in results), results
    return [r.image for r in results if isinstance(r, EditResult)]


METHODS = ["img2img", "instruct_pix2pix", "instruct_diffusion", "controlnet"]


@pytest.mark.parametrize("name", METHODS)
def test_an_edit_depends_on_image_concept_and_seed_alone(
    models: dict[str, Path], name: str
) -> None:
    editor = make_editor(name, batch=2, **options(models, name))
    assert editor.name == name and editor.supports("anything")
    sources = portraits(3)
    made = pictures(editor.edit(sources, GREY))
    assert all(m.shape == (32, 32, 3) and m.dtype == np.uint8 for m in made)
    backwards = pictures(editor.edit(sources[::-1], GREY))[::-1]
    alone = [pictures(editor.edit([s], GREY))[0] for s in sources]
    for a, b, c in zip(made, backwards, alone, strict=True):
        # a batch's sums round otherwise
        assert np.abs(a.astype(int) - b).max() <= 1 and np.abs(a.astype(int) - c).max() <= 1
    other = make_editor(name, seed=1, **options(models, name))
    assert not np.array_equal(pictures(other.edit(sources[:1], GREY))[0], alone[0])
    red = Concept("red-hair-000000", "red hair", "facial", (), "train")
    assert not np.array_equal(pictures(editor.edit(sources[:1], red))[0], alone[0])


@pytest.mark.parametrize("name", METHODS)
def test_the_picture_is_that_of_the_bare_pipeline(models: dict[str, Path], name: str) -> None:
    from diffusers import (
        ControlNetModel,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInstructPix2PixPipeline,
    )

    given = options(models, name)
    (source,) = portraits(1)
    image = Image.fromarray(source.image)
    rng = torch.Generator().manual_seed(edit_seed(source.image_id, GREY.concept_id, 0))
    shared = {
        "image": image,
        "num_inference_steps": STEPS,
        "generator": rng,
        "prompt": "a photo of a person, grey hair",
    }
    asked = {"prompt": "change the face of the person: grey hair"}
    if name == "img2img":
        kind, more = StableDiffusionImg2ImgPipeline, {"strength": 0.6, "guidance_scale": 7.5}
        pipeline = kind.from_pretrained(given["model"])
    elif name == "controlnet":
        kind, more = StableDiffusionControlNetImg2ImgPipeline, {"control_image": edges(image)}
        network = ControlNetModel.from_pretrained(given["extra"])
        pipeline = kind.from_pretrained(given["model"], controlnet=network)
    else:
        more = {**asked, "image_guidance_scale": 1.25, "guidance_scale": 5.0}
        if name == "instruct_pix2pix":
            more |= {"image_guidance_scale": 1.5, "guidance_scale": 7.5}
        kind = StableDiffusionInstructPix2PixPipeline
        pipeline = kind.from_pretrained(given["model"])
    expected = np.asarray(pipeline(**shared | more).images[0])
    (made,) = pictures(make_editor(name, **given).edit([source], GREY))
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_edges_steer_the_controlnet(models: dict[str, Path]) -> None:
    (source,) = portraits(1)
    found = np.asarray(edges(Image.fromarray(source.image)))
    assert set(np.unique(found)) == {0, 255}
    flat = Source(source.image_id, np.full_like(source.image, 128))
    assert not np.asarray(edges(Image.fromarray(flat.image))).any()
    editor: Any = make_editor("controlnet", **options(models, "controlnet"))
    (made,) = pictures(editor.edit([source], GREY))
    editor.pipeline.controlnet.controlnet_down_blocks.requires_grad_(False)
    for parameter in editor.pipeline.controlnet.controlnet_down_blocks.parameters():
        parameter.zero_()
    assert not np.array_equal(pictures(editor.edit([source], GREY))[0], made)


def test_newer_models_come_through_img2img(models: dict[str, Path]) -> None:
    """As SDXL-Turbo is used: no guidance, two steps at half strength."""
    editor: Any = make_editor(
        "img2img", model=str(models["sdxl"]), steps=2, strength=0.5, guidance=0.0, batch=2
    )
    assert type(editor.pipeline).__name__ == "StableDiffusionXLImg2ImgPipeline"
    assert len(pictures(editor.edit(portraits(3), GREY))) == 3
    few = make_editor("img2img", model=str(models["sdxl"]), steps=1, strength=0.5)
    (result,) = few.edit(portraits(1), GREY)
    assert isinstance(result, EditError) and "1 steps at strength 0.5 are none" in str(result)


def test_another_size_and_type_inside(models: dict[str, Path]) -> None:
    given = options(models, "img2img")
    editor: Any = make_editor("img2img", size=64, dtype="bfloat16", **given)
    assert editor.pipeline.unet.dtype == torch.bfloat16
    shapes = []
    run = editor.run
    editor.run = lambda images, *rest: shapes.append(images[0].size) or run(images, *rest)
    (made,) = pictures(editor.edit(portraits(1, 36), GREY))
    assert shapes == [(64, 64)] and made.shape == (36, 36, 3)
    # a side that the VAE cannot halve evenly
    odd = make_editor("img2img", **given)
    assert pictures(odd.edit(portraits(1, 36), GREY))[0].shape == (36, 36, 3)


class Fake(DiffusionEditor):
    """Inverts pictures, and fails as it is told."""

    name, model, style = "fake", "none", "prompt"

    def load(self, model: str) -> Any:
        class Pipeline:
            unet = torch.nn.Identity()

            def to(self, device: torch.device) -> Any:
                return self

            def set_progress_bar_config(self, **_: Any) -> None:
                pass

        self.calls: list[int] = []
        self.fails: Callable[[int], Exception | None] = lambda count: None
        return Pipeline()

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        self.calls.append(len(images))
        error = self.fails(len(images))
        if error:
            raise error
        return 1 - np.stack([np.asarray(i, dtype=np.float32) / 255 for i in images])


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_is_too_large_is_halved(error: Exception) -> None:
    editor = Fake(EditorOptions(batch=8))
    editor.fails = lambda count: error if count > 2 else None
    sources = portraits(10)
    made = pictures(editor.edit(sources, GREY))
    assert all(np.array_equal(m, 255 - s.image) for m, s in zip(made, sources, strict=True))
    assert editor.calls == [8, 4, 2, 2, 4, 2, 2, 2]
    editor.fails = lambda count: error
    (result,) = editor.edit(sources[:1], GREY)
    assert "out of memory with a single picture" in str(result)


def test_the_real_allocator_is_recognised() -> None:
    from modeling.diffusion_editors.core import _out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert _out_of_memory(caught.value)
    assert not _out_of_memory(RuntimeError("shape mismatch"))


def test_one_bad_picture_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Fake(EditorOptions(batch=4))
    run = editor.run

    def nan(images: list[Image.Image], *rest: Any) -> np.ndarray:
        made = run(images, *rest)
        made[1, 0, 0, 0] = np.nan
        return made

    monkeypatch.setattr(editor, "run", nan)
    results = editor.edit(portraits(3), GREY)
    assert [isinstance(r, EditError) for r in results] == [False, True, False]
    assert "not finite" in str(results[1])
    editor.fails = lambda count: ValueError("a bug")
    monkeypatch.setattr(editor, "run", run)
    assert [str(r) for r in editor.edit(portraits(2), GREY)] == ["ValueError: a bug"] * 2


def test_what_a_safety_checker_blackened_is_no_edit() -> None:
    from types import SimpleNamespace

    output = SimpleNamespace(images=np.zeros((2, 4, 4, 3)), nsfw_content_detected=[False, True])
    made = unflagged(output)
    assert np.isfinite(made[0]).all() and np.isnan(made[1]).all()
    output.nsfw_content_detected = None
    assert np.isfinite(unflagged(output)).all()


def test_attention_and_compile(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(models, "img2img")
    (source,) = portraits(1)
    plain = pictures(make_editor("img2img", **given).edit([source], GREY))[0]
    native = pictures(make_editor("img2img", attention="native", **given).edit([source], GREY))
    assert np.abs(native[0].astype(int) - plain).max() <= 1
    with pytest.raises(EditError, match="attention=nonsense"):
        make_editor("img2img", attention="nonsense", **given)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self)))
    make_editor("img2img", compile=True, **given)
    assert [c.__name__ for c in compiled] == ["UNet2DConditionModel"]


def test_models_that_cannot_be_loaded(models: dict[str, Path], tmp_path: Path) -> None:
    def refused(name: str, model: Path | str, match: str, **more: Any) -> None:
        with pytest.raises(EditError, match=match) as caught:
            make_editor(name, model=str(model), **more)
        assert "\n" not in str(caught.value)

    advice = r"editing\.models\.img2img=FOLDER.*allow_download=true"
    refused("img2img", tmp_path / "nothing", advice)
    refused("img2img", "nobody/nothing", advice)
    half = tmp_path / "half"
    shutil.copytree(models["stable_diffusion"], half)
    (half / "unet/diffusion_pytorch_model.safetensors").unlink()
    refused("img2img", half, "cannot load")
    shutil.copytree(models["stable_diffusion"], tmp_path / "cut")
    weights = tmp_path / "cut/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("img2img", tmp_path / "cut", "cannot load")
    torch.save({}, half / "unet/diffusion_pytorch_model.bin")
    refused("img2img", half, "cannot load")  # a pickle is not taken instead
    refused("instruct_diffusion", "", "convert its checkpoint")
    refused("instruct_pix2pix", models["stable_diffusion"], "an instructed one 8")
    missing = str(tmp_path / "nothing")
    refused("controlnet", models["stable_diffusion"], "editing.extras.controlnet", extra=missing)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"batch": 0}, "batch starts at 1"),
        ({"steps": -1}, "steps at 0"),
        ({"strength": 1.5}, r"strength must lie in \(0, 1\]"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(EditError, match=says):
        EditorOptions(**changes)


def test_what_the_models_are_told() -> None:
    assert instruction("prompt", GREY) == "a photo of a person, grey hair"
    mine = {"instruction": {"facial": "make it {text}!"}}
    assert instruction("instruction", GREY, mine) == "make it grey hair!"
    assert instruction("prompt", GREY, mine) == instruction("prompt", GREY)
    assert all("{text}" in t for style in TEMPLATES.values() for t in style.values())


# InstructDiffusion's checkpoint


def ldm_state(unet: Any) -> dict[str, torch.Tensor]:
    """The names that latent diffusion's own code gives the weights of `tiny_diffusion.unet`."""
    blocks = {
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "down_blocks.1.attentions.0": "input_blocks.3.1",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.attentions.0": "output_blocks.0.1",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.attentions.1": "output_blocks.1.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    out = {}
    for key, value in unet.state_dict().items():
        block = max((b for b in blocks if key.startswith(b + ".")), key=len)
        rest = key[len(block) + 1 :]
        for ours, theirs in inner.items():
            if ".resnets." in block and rest.startswith(ours + "."):
                rest = theirs + rest[len(ours) :]
        out[f"model.diffusion_model.{blocks[block]}.{rest}"] = value
    return out


def flat_ema(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Latent diffusion's averaged weights: their names without dots."""
    return {"model_ema." + k.removeprefix("model.").replace(".", ""): v for k, v in state.items()}


@pytest.mark.parametrize("averaged", [False, True])
def test_instruct_diffusions_checkpoint(
    models: dict[str, Path], tmp_path: Path, averaged: bool
) -> None:
    from modeling.diffusion_editors.instruct_diffusion import main

    unet = tiny_diffusion.unet(8)
    for parameter in unet.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    state = ldm_state(unet)
    if averaged:
        state = {k: torch.zeros_like(v) for k, v in state.items()} | flat_ema(state)
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    base, target = str(models["instruct_pix2pix"]), str(tmp_path / "converted")
    assert main([str(tmp_path / "model.ckpt"), target, base]) == 0
    editor: Any = make_editor("instruct_diffusion", model=target, steps=STEPS)
    for key, value in editor.pipeline.unet.state_dict().items():
        assert torch.equal(value, unet.state_dict()[key]), key
    reference: Any = make_editor("instruct_diffusion", model=base, steps=STEPS)
    before = pictures(reference.edit(portraits(1), GREY))[0]
    reference.pipeline.unet.load_state_dict(unet.state_dict())
    expected = pictures(reference.edit(portraits(1), GREY))[0]
    made = pictures(editor.edit(portraits(1), GREY))[0]
    assert np.array_equal(made, expected) and not np.array_equal(made, before)


class Opener:
    """What a hostile checkpoint may hold: it would write a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_checkpoints_that_are_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from modeling.diffusion_editors.instruct_diffusion import main

    base = str(models["instruct_pix2pix"])

    def refused(content: Any, says: str) -> None:
        path = tmp_path / "bad.ckpt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        assert main([str(path), str(tmp_path / "out"), base]) == 1
        printed = capsys.readouterr().err
        assert says in printed and str(path) in printed
        assert not (tmp_path / "out").exists()

    state = ldm_state(tiny_diffusion.unet(8))
    trap = tmp_path / "trap"
    refused({"state_dict": state, "callbacks": Opener(str(trap))}, "could run code")
    assert not trap.exists()
    refused(b"not a checkpoint", "is")
    refused({"state_dict": {"weight": torch.ones(1)}}, "it lacks model.diffusion_model.")
    refused({"state_dict": ldm_state(tiny_diffusion.unet(4))}, "architecture")
    assert main(["only one"]) == 2
