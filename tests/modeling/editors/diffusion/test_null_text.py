"""DDIM inversion, attention control and null-text inversion on tiny random pipelines."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.attention_maps import MappedAttention, changed_attention
from modeling.editors.diffusion.ddim_inversion import DDIM
from modeling.editors.diffusion.null_text import (
    Inversion,
    NullTextInversion,
    follow,
    optimise_nulls,
)
from modeling.editors.diffusion.prompt_to_prompt import Alignment, PromptToPrompt, align
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")
PERSON = "a photo of a person"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("sd"))


def pictures(count: int) -> list[Image.Image]:
    return [
        Image.fromarray(load_source(f"avatar-{i:07d}", "avatars", 32).image) for i in range(count)
    ]


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    """In float64, in which batched and single differ by rounding alone."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float64)
    pipeline.unet.requires_grad_(False)
    return pipeline


def inversion(pipeline: Any, steps: int, count: int, seed: int) -> tuple[DDIM, Tensor, Tensor, Any]:
    """DDIM, pivots, texts and null text of random latents as a VAE's would be."""
    ddim = DDIM(pipeline, steps)
    latents = torch.randn(
        count, 4, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    with torch.no_grad():
        texts = ddim.embed([PERSON] * count)
        return ddim, ddim.invert(latents, texts), texts, ddim.embed([""] * count)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1), st.integers(0, 2**32))
def test_inversion_is_undone_exactly_where_the_noise_does_not_depend_on_x(
    pipeline: Any, steps: int, offset: int, seed: int
) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, steps_offset=offset)
    parts = SimpleNamespace(unet=pipeline.unet, vae=pipeline.vae, scheduler=scheduler)
    ddim, generator = DDIM(parts, steps), torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, 2, 4, 4, 4, generator=generator, dtype=torch.float64)
    with patch.object(ddim, "predict", lambda latents, t, text: noise):
        path = ddim.invert(latents, torch.zeros(2, 77, 32))
        torch.testing.assert_close(ddim.sample(path[-1], torch.zeros(2, 77, 32)), latents)
    assert path.shape == (steps + 1, *latents.shape)
    assert steps == 1 or not torch.allclose(path[-1], latents, atol=0.1)


@torch.no_grad()
def test_inversion_comes_back_closer_with_more_steps(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an untrained UNet varies too fast with x for so few steps
    calm = copy.deepcopy(pipeline.unet)
    calm.conv_out.weight.mul_(0.1)
    monkeypatch.setattr(pipeline, "unet", calm)
    errors = []
    for steps in (20, 80):
        ddim, path, texts, _ = inversion(pipeline, steps, 2, seed=0)
        errors.append(distance(ddim.sample(path[-1], texts), path[0]).max())
    # of first order: a quarter of the step, in the limit a sixteenth of the squared error
    assert 0.01 > errors[0] > 4 * errors[1]


@torch.no_grad()
def test_inversion_of_a_batch_is_that_of_its_pictures(pipeline: Any) -> None:
    ddim, path, texts, _ = inversion(pipeline, 5, 3, seed=1)
    for i in range(3):
        torch.testing.assert_close(ddim.invert(path[0, i : i + 1], texts[:1]), path[:, i : i + 1])


@torch.no_grad()
def test_guided_steps_are_the_librarys_pipeline(pipeline: Any) -> None:
    """With one null text for all steps there is a pipeline that does the same."""
    ddim, pivots, texts, null = inversion(pipeline, 4, 2, seed=1)
    ours = follow(ddim, Inversion(pivots, null.repeat(4, 1, 1, 1), texts), 7.5)[-1]
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [PERSON] * 2, latents=pivots[-1], num_inference_steps=4, output_type="latent"
    ).images
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("seed", range(3))
def test_null_texts_bring_every_picture_closer(pipeline: Any, seed: int) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 5, 3, seed)
    plain = Inversion(pivots, null.repeat(5, 1, 1, 1), texts)
    errors = [distance(follow(ddim, plain, 7.5)[-1], pivots[0])]
    for inner_steps in (2, 10):
        nulls = optimise_nulls(ddim, pivots, texts, null, 7.5, inner_steps)
        errors.append(distance(follow(ddim, Inversion(pivots, nulls, texts), 7.5)[-1], pivots[0]))
    assert bool((errors[2] < errors[1]).all() and (errors[1] < errors[0]).all()), errors


def algorithm_1(
    pipeline: Any, pivots: Tensor, text: Tensor, null: Tensor, inner_steps: int, tolerance: float
) -> Tensor:
    """The paper's Algorithm 1 for one picture and 50 steps, on none of our code."""
    signal = pipeline.scheduler.alphas_cumprod.double()

    def noise(x: Tensor, t: int, embedding: Tensor) -> Tensor:
        return pipeline.unet(x, t, encoder_hidden_states=embedding).sample

    x, found = pivots[50], []
    for i in range(50):
        t = 981 - 20 * i
        a, b = signal[t], signal[max(t - 20, 0)]
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / 100))

        def below(null: Tensor, x: Tensor = x, t: int = t, a: Tensor = a, b: Tensor = b) -> Tensor:
            eps = (1 - 7.5) * noise(x, t, null) + 7.5 * noise(x, t, text).detach()
            return b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps

        for _ in range(inner_steps):
            loss = torch.nn.functional.mse_loss(below(null), pivots[49 - i])
            adam.zero_grad()
            loss.backward()
            adam.step()
            if loss.item() < tolerance + i * 2e-5:
                break
        x = below(null).detach()
        found.append(null.detach())
    return torch.stack(found)


def test_null_texts_are_those_of_the_papers_algorithm(pipeline: Any) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 50, 1, seed=3)
    # or the library's square roots would be of float32
    signal = ddim._down.alphas_cumprod.double()
    ddim._down.alphas_cumprod, ddim._down.final_alpha_cumprod = signal, signal[0]
    # with this tolerance 14 of the 50 steps stop early
    ours = optimise_nulls(ddim, pivots, texts, null, 7.5, inner_steps=2, tolerance=1.0)
    theirs = algorithm_1(pipeline, pivots, texts, null, inner_steps=2, tolerance=1.0)
    torch.testing.assert_close(ours, theirs)


def test_null_texts_of_a_batch_are_those_of_its_pictures(pipeline: Any) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 3, 3, seed=4)
    together = optimise_nulls(ddim, pivots, texts, null, 7.5, 4)
    for i in range(3):
        one = slice(i, i + 1)
        alone = optimise_nulls(ddim, pivots[:, one], texts[one], null[one], 7.5, 4)
        torch.testing.assert_close(alone, together[:, one])
    assert float((together[:, 0] - together[:, 1]).abs().max()) > 1e-3


def test_a_picture_that_has_stopped_does_not_move_again(pipeline: Any) -> None:
    """One picture is at its pivot within the tolerance from the start, the other is not."""
    ddim, pivots, texts, null = inversion(pipeline, 2, 2, seed=5)
    with torch.no_grad():  # the first picture's pivot is where its null text leads
        output = ddim.guided(pivots[-1], ddim.timesteps[0], null, texts, 7.5)
        pivots[-2, 0] = ddim.down(output, ddim.timesteps[0], pivots[-1])[0] + 1e-3
    short = optimise_nulls(ddim, pivots, texts, null, 7.5, inner_steps=1)
    long = optimise_nulls(ddim, pivots, texts, null, 7.5, inner_steps=5)
    assert torch.equal(long[0, 0], short[0, 0])
    assert float((long[0, 0] - null[0]).abs().max()) > 1e-3  # a step, then no other
    assert float((long[0, 1] - short[0, 1]).abs().max()) > 1e-3


def test_a_picture_that_is_not_finite_spoils_no_other(pipeline: Any) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 2, 2, seed=6)
    alone = optimise_nulls(ddim, pivots[:, 1:], texts[1:], null[1:], 7.5, 3)
    pivots[:, 0] = torch.nan
    both = optimise_nulls(ddim, pivots, texts, null, 7.5, 3)
    assert bool(both[:, 0].isnan().any())
    torch.testing.assert_close(both[:, 1:], alone)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "cat", "dog,", "grey", "hair"]), max_size=40),
    st.lists(st.sampled_from(["a", "cat", "dog,", "grey", "hair"]), max_size=40),
)
def test_alignment_laws(pipeline: Any, source: list[str], target: list[str]) -> None:
    tokenizer = pipeline.tokenizer
    before, after = (
        tokenizer(" ".join(text), padding="max_length", truncation=True).input_ids
        for text in (source, target)
    )
    mapper, share = align(" ".join(source), " ".join(target), tokenizer)
    same, _ = align(" ".join(source), " ".join(source), tokenizer)
    assert torch.equal(same, torch.eye(77))
    assert bool(((mapper.sum(1) <= 1 + 1e-6) & (share == (mapper.sum(0) > 0))).all())
    if len(source) != len(target):  # refinement: only equal tokens, each at most once, in order
        places = mapper.nonzero().tolist()
        assert all(before[s] == after[t] for s, t in places)
        assert all(b > a for (_, a), (_, b) in pairwise(places))


def test_a_refined_prompt_keeps_its_old_words(pipeline: Any) -> None:
    mapper, share = align("a cat", "a big cat", pipeline.tokenizer)
    # one token a letter: begin a c a t end → begin a b i g c a t end
    assert mapper[[0, 1, 2, 3, 4, 5], [0, 1, 5, 6, 7, 8]].tolist() == [1] * 6
    assert share[:10].tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert share[9:].tolist() == [1] * 68


def test_a_swapped_word_takes_the_place_of_the_old(pipeline: Any) -> None:
    mapper, share = align("a cat", "a horse", pipeline.tokenizer)
    assert mapper[2:5, 2:7].tolist() == [[pytest.approx(1 / 5)] * 5] * 3
    assert mapper[1, 1] == mapper[5, 7] == 1
    assert share[:8].tolist() == [1] * 8


def attention(limit: int, change: Any) -> tuple[Any, Any, Any]:
    """A cross-attention layer of diffusers, its own processor and ours."""
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    layer = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4).double()
    return layer, layer.processor, MappedAttention(layer.processor, change, limit)


@torch.no_grad()
def test_unchanged_maps_give_the_librarys_attention() -> None:
    layer, theirs, ours = attention(0, lambda maps: maps)
    x, text = torch.randn(3, 5, 8).double(), torch.randn(3, 7, 6).double()
    torch.testing.assert_close(ours(layer, x, text), theirs(layer, x, text))


@torch.no_grad()
def test_large_layers_keep_their_own_processor() -> None:
    layer, theirs, ours = attention(4, lambda maps: maps * 0)
    text = torch.randn(3, 7, 6).double()
    for pixels, kept in ((4, False), (5, True)):
        x = torch.randn(3, pixels, 8).double()
        assert torch.equal(ours(layer, x, text), theirs(layer, x, text)) == kept


@torch.no_grad()
def test_targets_take_the_sources_maps_by_hand() -> None:
    """One picture; source and target of three tokens, the target's second is new."""
    alignment = Alignment(torch.eye(3), torch.tensor([1.0, 0.0, 1.0]))
    control = PromptToPrompt([alignment])
    layer, _, ours = attention(0, control.cross)
    x, text = torch.randn(4, 5, 8).double(), torch.randn(4, 3, 6).double()
    made = ours(layer, x, text)

    queries = layer.to_q(x).view(4, 5, 2, 4)
    keys = layer.to_k(text).view(4, 3, 2, 4)
    maps = torch.einsum("bqhc,bkhc->bhqk", queries, keys).div(2).softmax(-1)
    maps[3, :, :, 0], maps[3, :, :, 2] = maps[2, :, :, 0], maps[2, :, :, 2]
    values = layer.to_v(text).view(4, 3, 2, 4)
    wanted = layer.to_out[0](torch.einsum("bhqk,bkhc->bqhc", maps, values).reshape(4, 5, 8))
    torch.testing.assert_close(made, wanted)

    maps = torch.rand(8, 2, 5, 5)  # two pictures, self-attention
    assert torch.equal(control.own(maps), torch.cat([maps[:6], maps[4:6]]))


@torch.no_grad()
def test_control_ends_with_its_share_of_the_steps(pipeline: Any) -> None:
    unet = pipeline.unet
    before = dict(unet.attn_processors)
    control = PromptToPrompt([align(PERSON, PERSON, pipeline.tokenizer)])
    controlled = []
    for progress in (0.0, 0.39, 0.4, 0.79, 0.8):
        with control.at(unet, progress):
            ours = [n for n, p in unet.attn_processors.items() if isinstance(p, MappedAttention)]
            controlled.append(("attn1" in str(ours), "attn2" in str(ours)))
        assert dict(unet.attn_processors) == before
    assert controlled == [(True, True)] * 2 + [(False, True)] * 2 + [(False, False)]


@pytest.fixture(scope="module")
def editor(folder: Path) -> NullTextInversion:
    made = make_editor("null_text", model=str(folder), steps=4, batch=2, device="cpu")
    assert isinstance(made, NullTextInversion)
    return made


def test_pictures_are_reconstructed_closer_than_by_plain_ddim(editor: NullTextInversion) -> None:
    """At the same guidance; in latents, because an untrained VAE's pixels are mostly clipped."""
    found = editor.invert(pictures(2), [PERSON] * 2)
    plain = found._replace(nulls=editor.ddim.embed(["", ""]).expand_as(found.nulls))
    paths = [follow(editor.ddim, one, 7.5) for one in (found, plain)]
    ours, theirs = (distance(path[-1], found.pivots[0]) for path in paths)
    assert bool((ours < theirs).all()), (ours, theirs)
    assert np.array_equal(editor.reconstruct(found), editor.ddim.decode(paths[0][-1]))


def in_double(editor: Any) -> NullTextInversion:
    """The editor itself, from now on in float64."""
    assert isinstance(editor, NullTextInversion)
    editor.pipeline.to(torch.float64)
    editor.ddim = DDIM(editor.pipeline, editor.ddim.steps)
    return editor


def test_an_edit_to_the_source_prompt_is_the_reconstruction(folder: Path) -> None:
    editor = in_double(make_editor("null_text", model=str(folder), steps=4, device="cpu"))
    found = editor.invert(pictures(2), [PERSON] * 2)
    same = editor.ddim.decode(editor.edited(found, [PERSON] * 2, [PERSON] * 2))
    # in the end pictures are rounded to float32
    np.testing.assert_allclose(same, editor.reconstruct(found), rtol=0, atol=1e-6)
    other = editor.ddim.decode(editor.edited(found, [PERSON] * 2, ["grey hair"] * 2))
    assert np.abs(other - same).mean() > 1e-3


def test_the_editor_edits_a_batch(editor: NullTextInversion) -> None:
    sources = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]
    results = editor.edit(sources, GREY)
    assert all(isinstance(r, EditResult) for r in results), results
    again = editor.edit(sources[2:], GREY)
    assert np.array_equal(again[0].image, results[2].image)


def test_evaluations_are_counted_right(
    editor: NullTextInversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = editor.ddim.predict

    def counted(latents: Tensor, t: int, text: Tensor) -> Tensor:
        passes.append((len(latents), torch.is_grad_enabled()))
        return forward(latents, t, text)

    monkeypatch.setattr(editor.ddim, "predict", counted)
    editor.edit([load_source("avatar-0000000", "avatars", 32)], GREY)
    assert sum(n for n, _ in passes) == NullTextInversion.evaluations(4).forward
    assert sum(n for n, back in passes if back) == NullTextInversion.evaluations(4).backward


def test_float16_finds_much_the_same_null_texts(folder: Path, editor: NullTextInversion) -> None:
    half = make_editor("null_text", model=str(folder), steps=4, dtype="float16", device="cpu")
    assert isinstance(half, NullTextInversion)
    start = editor.ddim.embed([""])
    moved = [(e.invert(pictures(1), [PERSON]).nulls - start)[0].flatten() for e in (half, editor)]
    assert float(torch.cosine_similarity(*moved, 0)) > 0.99
    assert moved[0].dtype == torch.float32


def test_a_picture_that_the_safety_checker_flags_is_no_picture(
    editor: NullTextInversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        editor.pipeline, "run_safety_checker", lambda image, *rest: (image, [False, True])
    )
    sources = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(2)]
    good, flagged = editor.edit(sources, GREY)
    assert isinstance(good, EditResult)
    assert isinstance(flagged, EditError) and "not finite" in str(flagged)


def test_changed_attention_is_never_compiled(pipeline: Any, monkeypatch: Any) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    ddim, path, texts, _ = inversion(pipeline, 2, 1, seed=0)
    monkeypatch.setattr(pipeline, "unet", copy.deepcopy(pipeline.unet))
    pipeline.unet.compile(backend=backend)
    with changed_attention(pipeline.unet, cross=lambda maps: maps):
        changed = ddim.predict(path[0], 1, texts)
    assert not graphs
    torch.testing.assert_close(ddim.predict(path[0], 1, texts), changed)
    assert graphs


def test_checkpointing_changes_nothing_but_memory(folder: Path) -> None:
    frugal, plain = (
        in_double(
            make_editor("null_text", model=str(folder), steps=4, checkpointing=on, device="cpu")
        )
        for on in (True, False)
    )
    assert frugal.pipeline.unet.is_gradient_checkpointing
    assert not plain.pipeline.unet.is_gradient_checkpointing
    one, other = (e.invert(pictures(1), [PERSON]).nulls for e in (frugal, plain))
    torch.testing.assert_close(one, other)


def test_other_models_and_too_many_steps_are_refused(folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    with pytest.raises(EditError, match="1001 steps: the model knows 1000"):
        make_editor("null_text", model=str(folder), steps=1001, device="cpu")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.register_modules(unet=tiny_diffusion.unet(in_channels=8))
    pipeline.save_pretrained(tmp_path / "instructed")
    with pytest.raises(EditError, match="takes 8 channels and the latents have 4"):
        make_editor("null_text", model=str(tmp_path / "instructed"), device="cpu")


def test_kept_inversions_change_nothing_but_the_work(
    folder: Path, editor: NullTextInversion
) -> None:
    red = Concept("red-hair-000000", "red hair", "facial", (), "train")
    options = {"model": str(folder), "steps": editor.ddim.steps, "batch": 2}
    keeping: Any = make_editor("null_text", inversions=2, **options)
    plain: Any = make_editor("null_text", **options)
    inverted: list[int] = []
    invert = keeping.invert

    def counted(images: list[Image.Image], prompts: list[str]) -> Inversion:
        inverted.append(len(images))
        return invert(images, prompts)

    keeping.invert = counted
    sources = [load_source(f"avatar-{i:07d}", "avatars", 32) for i in range(3)]
    for concept in (GREY, red):
        for mine, theirs in zip(
            keeping.edit(sources, concept), plain.edit(sources, concept), strict=True
        ):
            assert isinstance(mine, EditResult) and isinstance(theirs, EditResult)
            assert np.abs(mine.image.astype(int) - theirs.image).max() <= 1
    assert inverted == [2, 1, 1]  # the third picture has no room, and displaces no other
    # a batch of which one picture is known
    keeping.edit([sources[0], sources[2]], GREY)
    assert inverted == [2, 1, 1, 1]
