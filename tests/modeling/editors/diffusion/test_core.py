"""What all diffusion editors share, on a tiny random pipeline saved and loaded by the real code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.core import EditorOptions, edit_seed
from modeling.editors.diffusion.img2img import ImageToImage
from modeling.editors.diffusion.instructions import TEMPLATES, check_templates
from modeling.editors.interface import EditError, EditResult, Source
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
BEARD = Concept("beard-000000", "a beard", "facial", (), "train")
SOURCES = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(5)]


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def editor(stable_diffusion: Path) -> ImageToImage:
    return ImageToImage(EditorOptions(model=str(stable_diffusion), batch=4, steps=2))


def pictures(results: list[EditResult | EditError]) -> np.ndarray:
    """The pictures of edits that all succeeded, as int16."""
    out = []
    for result in results:
        assert isinstance(result, EditResult), result
        out.append(result.image)
    return np.stack(out).astype(np.int16)


def reasons(results: list[EditResult | EditError]) -> list[str]:
    return [str(r) if isinstance(r, EditError) else "" for r in results]


# Seeds


def test_the_picture_is_that_of_the_bare_pipeline(
    editor: ImageToImage, stable_diffusion: Path
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(stable_diffusion)
    pipeline.set_progress_bar_config(disable=True)
    seed = edit_seed(SOURCES[1].image_id, GREY.concept_id, 0)
    bare = pipeline(
        prompt="a photo of a person, grey hair",
        image=Image.fromarray(SOURCES[1].image),
        strength=0.6,
        guidance_scale=7.5,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    ours = pictures(editor.edit(SOURCES[:3], GREY))[1]
    assert np.abs(ours - np.asarray(bare).astype(np.int16)).max() <= 1


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(5)), count=st.integers(1, 5), batch=st.integers(1, 5))
def test_an_edit_depends_on_neither_batch_nor_neighbours(
    stable_diffusion: Path, order: list[int], count: int, batch: int
) -> None:
    options = EditorOptions(model=str(stable_diffusion), batch=batch, steps=2)
    kept = order[:count]
    edited = pictures(ImageToImage(options).edit([SOURCES[i] for i in kept], GREY))
    alone = ImageToImage(EditorOptions(model=str(stable_diffusion), batch=1, steps=2))
    reference = np.concatenate([pictures(alone.edit([SOURCES[i]], GREY)) for i in kept])
    assert np.abs(edited - reference).max() <= 1


def test_other_image_concept_or_seed_other_noise() -> None:
    seeds = {edit_seed(i, c, s) for i in ("a", "b") for c in ("x", "y") for s in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seed_reaches_the_noise(stable_diffusion: Path) -> None:
    blank = [Source(name, SOURCES[0].image) for name in ("a", "b")]
    both = [
        pictures(
            ImageToImage(EditorOptions(model=str(stable_diffusion), steps=2, seed=s)).edit(
                blank, GREY
            )
        )
        for s in (0, 1)
    ]
    assert (both[0][0] != both[0][1]).any()
    assert (both[0] != both[1]).any()


# Pictures that fail


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "cpu-windows", "python"],
)
@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_out_of_memory_halves_the_batch(
    editor: ImageToImage, monkeypatch: pytest.MonkeyPatch, error: Exception, limit: int
) -> None:
    sizes: list[int] = []

    def run(images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        assert len(images) == len(texts) == len(seeds)
        sizes.append(len(images))
        if len(images) > limit:
            raise error
        return np.stack([np.asarray(i, np.float32) / 255 for i in images])

    monkeypatch.setattr(editor, "run", run)
    monkeypatch.setattr(editor, "fits", {})
    results = editor.edit(SOURCES, GREY)
    if limit == 0:
        assert sizes == [4, 2, 1, 1, 1, 1, 1]
        assert all("out of memory with a single picture" in r for r in reasons(results))
    else:
        assert sizes == ([4, 2, 1, 1, 1, 1, 1] if limit == 1 else [4, 2, 2, 1])
        assert (pictures(results) == np.stack([s.image for s in SOURCES])).all()


def test_the_cpu_allocator_says_what_we_look_for(
    editor: ImageToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor, "run", lambda *_: torch.empty(1 << 50))
    assert "out of memory with a single picture" in reasons(editor.edit(SOURCES[:1], GREY))[0]


def test_another_error_is_recorded_and_loses_its_batch_alone(
    editor: ImageToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = editor.run

    def run(images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        if len(images) == 1:
            raise RuntimeError("shape mismatch,\nand more")
        return usual(images, texts, seeds)

    monkeypatch.setattr(editor, "run", run)
    results = editor.edit(SOURCES, GREY)
    assert reasons(results) == ["", "", "", "", "RuntimeError: shape mismatch, and more"]


def test_a_picture_that_is_not_finite_fails_alone(editor: ImageToImage) -> None:
    whole = pictures(editor.edit(SOURCES[:3], GREY))
    decode = editor.pipeline.vae.decode

    def broken(latents: torch.Tensor, **keywords: Any) -> Any:
        latents[1] = float("nan")
        return decode(latents, **keywords)

    editor.pipeline.vae.decode = broken
    results = editor.edit(SOURCES[:3], GREY)
    assert [bool(r) for r in reasons(results)] == [False, True, False]
    assert "not finite" in reasons(results)[1]
    assert (pictures([results[0], results[2]]) == whole[[0, 2]]).all()


def test_half_precision_that_overflows_is_no_black_picture(stable_diffusion: Path) -> None:
    half = make_editor("img2img", model=str(stable_diffusion), steps=2, dtype="float16")
    with torch.no_grad():
        half.pipeline.vae.decoder.conv_in.weight.fill_(60000)
    (reason,) = reasons(half.edit(SOURCES[:1], GREY))
    assert "not finite (editing.dtype=bfloat16 or float32 has room for more)" in reason


def test_a_picture_that_the_safety_checker_stops_fails_alone(editor: ImageToImage) -> None:
    whole = pictures(editor.edit(SOURCES[:3], GREY))

    def checked(image: torch.Tensor, *_: Any) -> tuple[torch.Tensor, list[bool]]:
        image[1] = 0
        return image, [False, True, False]

    editor.pipeline.run_safety_checker = checked
    results = editor.edit(SOURCES[:3], GREY)
    assert "safety checker" in reasons(results)[1]
    assert (pictures([results[0], results[2]]) == whole[[0, 2]]).all()


# Sizes


def test_edits_at_another_side_and_gives_the_sources(stable_diffusion: Path) -> None:
    editor = ImageToImage(EditorOptions(model=str(stable_diffusion), steps=2, size=48))
    sides: list[tuple[int, int]] = []
    usual = editor.run

    def run(images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        sides.extend(i.size for i in images)
        return usual(images, texts, seeds)

    editor.run = run
    wide = Source("wide", np.zeros((21, 30, 3), np.uint8))
    for sources in (SOURCES[:2], [wide]):
        made = pictures(editor.edit(sources, GREY))
        assert made.shape == (len(sources), *sources[0].image.shape)
    assert sides == [(48, 48)] * 3


def test_sides_that_are_no_multiple_are_refused(
    editor: ImageToImage, stable_diffusion: Path
) -> None:
    assert editor.multiple == 2
    odd = Source("odd", np.zeros((21, 30, 3), np.uint8))
    (reason,) = reasons(editor.edit([odd], GREY))
    assert reason.startswith("img2img: 30×21 pixels: the sides must be multiples of 2")
    assert "editing.size=30" in reason
    with pytest.raises(EditError, match=r"33×33 pixels.*editing\.size=32"):
        make_editor("img2img", model=str(stable_diffusion), size=33)


# Options


def test_bfloat16_on_the_cpu(stable_diffusion: Path) -> None:
    options = {"model": str(stable_diffusion), "steps": 4}
    half = make_editor("img2img", dtype="bfloat16", **options)
    assert half.pipeline.unet.dtype == torch.bfloat16
    whole = make_editor("img2img", **options)
    difference = pictures(half.edit(SOURCES, GREY)) - pictures(whole.edit(SOURCES, GREY))
    assert 0 < np.abs(difference).mean() < 3  # of 255


def test_compile_compiles_the_denoiser(
    stable_diffusion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # compiling itself takes the better part of a minute on a CPU
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    editor = ImageToImage(EditorOptions(model=str(stable_diffusion), compile=True))
    assert compiled == [editor.pipeline.unet]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "float8"}, "dtype 'float8': use one of float32"),
        ({"batch": -1}, "batch, size and steps start at 0"),
        ({"size": -8}, "size and steps start at 0"),
        ({"guidance": -2.0}, "guidance=-2.0: is 0 or more"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"image_guidance": -0.5}, "image_guidance=-0.5"),
        ({"strength": 0.0}, "strength=0.0: is in"),
        ({"strength": 1.1}, "strength=1.1: is in"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"attention": "magic"}, "attention=magic: `backend='magic'` must be one of"),
        ({"attention": "_native_math"}, "the UNet2DConditionModel of 'img2img' has no choice"),
        ({"templates": {"song": {}}}, "templates.song: the styles are prompt"),
        ({"templates": {"prompt": {"hair": "{text}"}}}, "templates.prompt.hair: the categories"),
        ({"templates": {"prompt": {"art": "red"}}}, "templates.prompt.art: must contain {text}"),
    ],
)
def test_bad_options_are_refused(
    stable_diffusion: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(EditError, match=re.escape(says)) as raised:
        make_editor("img2img", model=str(stable_diffusion), **options)
    assert "\n" not in str(raised.value)


def test_a_unet_has_the_native_attention(stable_diffusion: Path) -> None:
    options: dict[str, Any] = {"model": str(stable_diffusion), "steps": 2}
    native, plain = (make_editor("img2img", attention=a, **options) for a in ("native", ""))
    assert (pictures(native.edit(SOURCES, GREY)) == pictures(plain.edit(SOURCES, GREY))).all()


def test_own_templates_go_first(stable_diffusion: Path) -> None:
    templates = {"prompt": {"facial": "{text}, in oil, {text}"}}
    editor = ImageToImage(EditorOptions(model=str(stable_diffusion), templates=templates))
    assert editor.text(GREY) == "grey hair, in oil, grey hair"
    art = Concept("a", "mosaic", "art", (), "train")
    assert editor.text(art) == "a portrait of a person, mosaic"
    check_templates(TEMPLATES)


# Models that cannot be loaded


def weights(folder: Path, part: str = "unet/diffusion_pytorch_model") -> Path:
    return folder / f"{part}.safetensors"


def without_a_weight(folder: Path) -> None:
    tensors = load_file(weights(folder))
    del tensors["conv_in.bias"]
    save_file(tensors, weights(folder), metadata={"format": "pt"})


def of_another_shape(folder: Path) -> None:
    tensors = load_file(weights(folder))
    tensors["conv_in.bias"] = torch.zeros(3)
    save_file(tensors, weights(folder), metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    torch.save(load_file(weights(folder)), weights(folder).with_suffix(".bin"))
    weights(folder).unlink()


def cut(part: str) -> Callable[[Path], None]:
    return lambda folder: (
        weights(folder, part).write_bytes(weights(folder, part).read_bytes()[:999]) and None
    )


def of_class(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "model_index.json").unlink(), "no file named model_index.json"),
        (lambda f: (f / "model_index.json").write_text('{"_cl') and None, "index.json is damaged"),
        (lambda f: shutil.rmtree(f / "unet"), "it lacks unet"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "it lacks tokenizer"),
        (lambda f: shutil.rmtree(f / "scheduler"), "it lacks scheduler"),
        (lambda f: (f / "unet/config.json").unlink(), "no file named config.json"),
        (lambda f: weights(f).unlink(), "no file named diffusion_pytorch_model.safetensors"),
        (cut("unet/diffusion_pytorch_model"), "Unable to load weights"),
        (cut("text_encoder/model"), "deserializing"),
        (without_a_weight, "a UNet2DConditionModel without conv_in.bias"),
        (of_another_shape, "expected shape"),
        (as_pickle, "no file named diffusion_pytorch_model.safetensors"),
        (of_class("AudioLDMPipeline"), "can't find a pipeline linked to AudioLDMPipeline"),
        (of_class("NoSuchPipeline"), "can't find a pipeline linked to NoSuchPipeline"),
    ],
)
def test_a_damaged_folder_is_refused(
    stable_diffusion: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    folder = shutil.copytree(stable_diffusion, tmp_path / "model")
    damage(folder)
    with pytest.raises(EditError, match=re.escape(says)) as raised:
        make_editor("img2img", model=str(folder))
    message = str(raised.value)
    assert "\n" not in message
    assert f"cannot load {str(folder)!r}" in message
    assert "editing.models.img2img=FOLDER" in message


def test_a_hub_id_that_is_not_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EditError, match=r"allow_download=true") as raised:
        make_editor("img2img", model="nobody/no-such-model")
    assert "\n" not in str(raised.value)
