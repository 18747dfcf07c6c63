"""InstructPix2Pix and InstructDiffusion: guidance, and checkpoints of latent diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling.concepts.concept import Concept
from modeling.editors.diffusion import instruct_diffusion
from modeling.editors.diffusion.core import DiffusionEditor, EditorOptions, edit_seed
from modeling.editors.diffusion.instruct_diffusion import InstructDiffusion, convert
from modeling.editors.diffusion.instruct_pix2pix import InstructPix2Pix
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
TOLD = "change the face of the person: grey hair"
SOURCES = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]
SEED = edit_seed(SOURCES[1].image_id, GREY.concept_id, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_diffusion.instruct_pix2pix(tmp_path_factory.mktemp("instructed")))


def pictures(editor: DiffusionEditor) -> np.ndarray:
    out = []
    for result in editor.edit(SOURCES, GREY):
        assert isinstance(result, EditResult), result
        out.append(result.image)
    return np.stack(out).astype(np.int16)


def test_instruct_pix2pix_gives_the_picture_of_the_bare_pipeline(model: str) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    made = pictures(InstructPix2Pix(EditorOptions(model=model, batch=2, steps=4)))
    bare = StableDiffusionInstructPix2PixPipeline.from_pretrained(model)
    bare.set_progress_bar_config(disable=True)
    (wanted,) = bare(
        prompt=TOLD,
        image=Image.fromarray(SOURCES[1].image),
        num_inference_steps=4,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(SEED),
    ).images
    assert np.abs(made[1] - np.asarray(wanted).astype(np.int16)).max() <= 1


@torch.no_grad()
def sampled_as_the_authors_do(model: str, text_scale: float, image_scale: float) -> np.ndarray:
    """SOURCES[1] edited by InstructDiffusion's formula, branch by branch, in four DDIM steps."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    p = StableDiffusionInstructPix2PixPipeline.from_pretrained(model)

    def encode(text: str) -> torch.Tensor:
        tokens = p.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
        encoded: torch.Tensor = p.text_encoder(tokens.input_ids)[0]
        return encoded

    text, null = encode(TOLD), encode("")
    pixels = torch.from_numpy(SOURCES[1].image).permute(2, 0, 1)[None] / 127.5 - 1
    picture = p.vae.encode(pixels).latent_dist.mode()
    latents = torch.randn(picture.shape, generator=torch.Generator().manual_seed(SEED))
    p.scheduler.set_timesteps(4)
    for t in p.scheduler.timesteps:

        def noise(words: torch.Tensor, seen: torch.Tensor, t: Any = t) -> torch.Tensor:
            out: torch.Tensor = p.unet(torch.cat([latents, seen], 1), t, words).sample  # noqa: B023
            return out

        both, of_picture = noise(text, picture), noise(null, picture)
        of_text = noise(text, torch.zeros_like(picture))
        guided = 0.5 * (of_picture + of_text)
        guided = guided + text_scale * (both - of_picture) + image_scale * (both - of_text)
        latents = p.scheduler.step(guided, t, latents).prev_sample
    out = p.vae.decode(latents / p.vae.config.scaling_factor).sample[0]
    return (out.clamp(-1, 1).permute(1, 2, 0).numpy() * 127.5 + 127.5).round().astype(np.int16)


def test_instruct_diffusion_guides_as_its_authors_do(model: str) -> None:
    default = pictures(InstructDiffusion(EditorOptions(model=model, steps=4)))
    assert np.abs(default[1] - sampled_as_the_authors_do(model, 5.0, 1.25)).max() <= 1
    given = EditorOptions(model=model, steps=4, guidance=3.0, image_guidance=0.5)
    made = pictures(InstructDiffusion(given))
    assert np.abs(made[1] - sampled_as_the_authors_do(model, 3.0, 0.5)).max() <= 1
    same = EditorOptions(model=model, steps=4, guidance=5.0, image_guidance=1.25)
    assert (pictures(InstructPix2Pix(same)) != default).any()


def test_guidance_that_diffusers_would_drop_is_refused(model: str, tmp_path: Path) -> None:
    for options in ({"image_guidance": 0.9}, {"guidance": 1.0}):
        with pytest.raises(EditError, match=r"instruct_pix2pix: diffusers guides by neither"):
            make_editor("instruct_pix2pix", model=model, **options)
    with pytest.raises(EditError, match=r"instruct_diffusion: diffusers guides by neither"):
        make_editor("instruct_diffusion", model=model, image_guidance=0.4)
    plain = str(tiny_diffusion.stable_diffusion(tmp_path))
    with pytest.raises(EditError, match="its UNet takes 4 channels, not 8"):
        make_editor("instruct_pix2pix", model=plain)
    with pytest.raises(EditError, match="convert its checkpoint"):
        make_editor("instruct_diffusion")


# Checkpoints of latent diffusion

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def latent_diffusion_name(key: str, layers: int, attends: set[str]) -> str:
    """A UNet's key as latent diffusion names it; layers: a level has of them.

    attends: the levels ("up_blocks.0", …) with attention.
    """
    for ours, theirs in ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    level = ".".join(key.split(".")[:2])
    if key.startswith("mid_block"):
        _, part, index, *rest = key.split(".")
        block = f"middle_block.{2 * int(index) + (part == 'attentions')}"
    else:
        side, number, part, index, *rest = key.split(".")
        names = {"down_blocks": "input_blocks", "up_blocks": "output_blocks"}
        first = int(number) * (layers + 1) + (side == "down_blocks")
        if part == "downsamplers":
            return ".".join([names[side], str(first + layers), "0.op", *rest[1:]])
        if part == "upsamplers":
            place = "2" if level in attends else "1"
            return ".".join([names[side], str(first + layers), place, *rest])
        block = f"{names[side]}.{first + int(index)}.{int(part == 'attentions')}"
    if part == "resnets":
        rest[0] = RESNET[rest[0]]
    return ".".join([block, *rest])


def latent_diffusion(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    attends = {".".join(k.split(".")[:2]) for k in weights if "attentions" in k}
    prefix = "model.diffusion_model."
    return {prefix + latent_diffusion_name(k, layers, attends): w for k, w in weights.items()}


def averages(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As LitEma names its buffers."""
    return {
        "model_ema." + key.removeprefix("model.").replace(".", ""): weight
        for key, weight in state.items()
    }


def trained(model: str) -> InstructPix2Pix:
    """An editor whose UNet is no longer its base's."""
    editor = InstructPix2Pix(EditorOptions(model=model, steps=4))
    torch.manual_seed(9)
    for parameter in editor.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return editor


@pytest.mark.parametrize("averaged", [False, True], ids=["published", "with EMA"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "state_dict"])
def test_a_converted_checkpoint_edits_as_its_source(
    model: str, tmp_path: Path, averaged: bool, wrapped: bool
) -> None:
    editor = trained(model)
    kept = latent_diffusion(editor.denoiser.state_dict(), layers=1)
    state: dict[str, Any] = dict(kept)
    if averaged:
        state = {key: torch.zeros_like(weight) for key, weight in kept.items()} | averages(kept)
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(1)
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "task.ckpt")
    convert(tmp_path / "task.ckpt", tmp_path / "models" / "converted", model)
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["converted"]
    converted = str(tmp_path / "models" / "converted")
    again = InstructPix2Pix(EditorOptions(model=converted, steps=4))
    for ours, theirs in zip(again.denoiser.parameters(), editor.denoiser.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (pictures(again) == pictures(editor)).all()
    task = make_editor("instruct_diffusion", model=converted, steps=4)
    assert isinstance(task.edit(SOURCES, GREY)[0], EditResult)


def test_every_weight_of_stable_diffusion_1_is_mapped() -> None:
    """The architecture of the published checkpoint, without its weights."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
    state = latent_diffusion(unet.state_dict(), layers=2)
    assert len(state) == 686
    for name in (  # from the latent-diffusion code: 8 heads, channel_mult 1, 2, 4, 4
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.1.proj_out.weight",
    ):
        assert f"model.diffusion_model.{name}" in state
    chosen = instruct_diffusion.unet_weights(state, "meta")
    back = convert_ldm_unet_checkpoint(chosen, dict(unet.config))
    assert {k: w.shape for k, w in back.items()} == {
        k: w.shape for k, w in unet.state_dict().items()
    }


class Evil:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("unpickled",))


def test_a_checkpoint_that_would_run_code_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "callbacks": Evil()}, file)
    status = instruct_diffusion.main([str(file), str(tmp_path / "target"), model])
    out = capsys.readouterr()
    assert status == 1
    assert "unpickled" not in out.out
    assert out.err.startswith(f"{file}: holds objects besides tensors")
    assert not (tmp_path / "target").exists()


def test_checkpoints_that_do_not_fit_are_refused(model: str, tmp_path: Path) -> None:
    good = latent_diffusion(trained(model).denoiser.state_dict(), layers=1)
    some = dict(list(averages(good).items())[:5])
    (first, *_) = good
    states: list[tuple[Any, str]] = [
        ({"weight": torch.zeros(1)}, r"it lacks model\.diffusion_model\."),
        ([torch.zeros(1)], r"it lacks model\.diffusion_model\."),
        ({1: torch.zeros(1)}, r"it lacks model\.diffusion_model\."),
        (good | some, f"{len(good) - 5} averages are missing"),
        ({k: w for k, w in good.items() if k != first}, "is not of .*'s architecture"),
        (good | {first: torch.zeros(3)}, "is not of .*'s architecture"),
        ({first: good[first]}, "is not of .*'s architecture"),
    ]
    for state, says in states:
        torch.save(state, tmp_path / "task.ckpt")
        with pytest.raises(EditError, match=says) as raised:
            convert(tmp_path / "task.ckpt", tmp_path / "target", model)
        assert "\n" not in str(raised.value)
        assert str(tmp_path / "task.ckpt") in str(raised.value)
    torch.save(good, tmp_path / "task.ckpt")
    with pytest.raises(EditError, match=r"nothing: cannot be loaded \(no such folder\)"):
        convert(tmp_path / "task.ckpt", tmp_path / "target", str(tmp_path / "nothing"))
    whole = (tmp_path / "task.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("<!DOCTYPE html>")
    for name in ("half.ckpt", "text.ckpt", "no.ckpt"):
        with pytest.raises(EditError, match=f"{name}: "):
            convert(tmp_path / name, tmp_path / "target", model)
    assert not (tmp_path / "target").exists()
    (tmp_path / "target").mkdir()
    with pytest.raises(EditError, match="target: is there already"):
        convert(tmp_path / "task.ckpt", tmp_path / "target", model)
    assert not list((tmp_path / "target").iterdir())


def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(latent_diffusion(trained(model).denoiser.state_dict(), 1), tmp_path / "a.ckpt")
    words = [str(tmp_path / "a.ckpt"), str(tmp_path / "b"), model]
    assert instruct_diffusion.main(words) == 0
    assert (tmp_path / "b" / "model_index.json").is_file()
    assert instruct_diffusion.main(words[:1]) == 2
    assert "CHECKPOINT TARGET" in capsys.readouterr().err
