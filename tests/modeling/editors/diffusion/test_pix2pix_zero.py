"""pix2pix-zero on tiny random pipelines, against diffusers' deprecated pipeline."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.attention_maps import changed_attention
from modeling.editors.diffusion.ddim_inversion import DDIM
from modeling.editors.diffusion.noise_regularisation import (
    NoiseRegularisation,
    auto_correlation,
    divergence,
    rolled,
)
from modeling.editors.diffusion.pix2pix_zero import (
    SENTENCES,
    Pix2PixZero,
    edit_along,
    kept_in,
    map_gradient,
)
from modeling.editors.interface import EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from tests import tiny_diffusion

STEPS = 4
GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def ddim(folder: Path) -> DDIM:
    """In float64, in which batched and single differ by rounding alone."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float64)
    pipeline.unet.requires_grad_(False)
    return DDIM(pipeline, STEPS)


@pytest.fixture(scope="module")
def published(ddim: DDIM) -> Any:
    """diffusers' own pipeline with the same parts, its UNet a copy: it changes the processors."""
    import copy

    from diffusers import DDIMInverseScheduler
    from diffusers.pipelines.deprecated.stable_diffusion_variants import (
        pipeline_stable_diffusion_pix2pix_zero as module,
    )

    parts = ddim.pipeline.components
    pipeline = module.StableDiffusionPix2PixZeroPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=copy.deepcopy(parts["unet"]),
        feature_extractor=None,
        safety_checker=None,
        inverse_scheduler=DDIMInverseScheduler.from_config(parts["scheduler"].config),
        caption_generator=None,
        caption_processor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def normal(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 16, 16, generator=generator, dtype=torch.float64)


def test_inversion_is_the_deprecated_pipelines(ddim: DDIM, published: Any) -> None:
    latents, prompt = normal(1, 0), "a photo of a person"
    wanted = published.invert(
        prompt,
        image=latents,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).latents
    with torch.no_grad():
        text = ddim.embed([prompt])
        whiten = NoiseRegularisation(ddim, [torch.Generator().manual_seed(3)])
        path = ddim.invert(latents, text, whiten)
        plain = ddim.invert(latents, text)
    torch.testing.assert_close(path[-1], wanted)
    assert not torch.allclose(plain[-1], wanted, atol=1e-2)


@pytest.mark.parametrize("amount", [0.1, 5.0])
def test_edit_is_the_deprecated_pipelines(ddim: DDIM, published: Any, amount: float) -> None:
    noise, prompt = normal(1, 1), "a photo of a person"
    with torch.no_grad():
        source = ddim.embed([prompt])
        target = ddim.embed(["a photo of a person with grey hair"])
    wanted = published(
        prompt,
        source_embeds=source,
        target_embeds=target,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        negative_prompt=prompt,
        latents=noise,
        cross_attention_guidance_amount=amount,
        output_type="latent",
    ).images
    direction = target - source
    made = edit_along(ddim, noise, source, direction, 5.0, amount)
    torch.testing.assert_close(made, wanted)
    unguided = edit_along(ddim, noise, source, direction, 5.0, 0.0)
    assert not torch.allclose(unguided, wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_without_direction_the_edit_is_the_ddim_reconstruction(ddim: DDIM) -> None:
    noise, source = normal(2, 2), ddim.embed(["a photo of a person"] * 2)
    wanted = ddim.sample(noise, source)
    for amount in (0.0, 0.1):  # the maps are the reference's already: no gradient either
        made = edit_along(ddim, noise, source, torch.zeros_like(source), 5.0, amount)
        torch.testing.assert_close(made, wanted)


@torch.no_grad()
def test_the_gradient_step_brings_the_maps_closer(ddim: DDIM) -> None:
    source = ddim.embed(["a photo of a person"] * 2)
    texts = torch.cat([source, ddim.embed(["an angry cat"] * 2)])
    latents, t = normal(2, 3), ddim.timesteps[1]
    maps: list[Tensor] = []
    with changed_attention(ddim.pipeline.unet, cross=kept_in(maps)):
        ddim.predict(normal(2, 4), t, source)
    assert [len(m) for m in maps] == [2] * 4
    both = latents.repeat(2, 1, 1, 1)
    before, gradient = map_gradient(ddim, both, t, texts, maps)
    after, _ = map_gradient(ddim, both - 0.1 * gradient, t, texts, maps)
    assert before.shape == (4,)
    assert bool((after < before).all()), (before, after)
    predicted = -0.1 * gradient.square().flatten(1).sum(1)  # by the gradient, to first order
    torch.testing.assert_close(after - before, predicted, rtol=0.2, atol=0)


@torch.no_grad()
def test_a_batch_is_its_pictures(ddim: DDIM) -> None:
    def seeded(*seeds: int) -> NoiseRegularisation:
        return NoiseRegularisation(ddim, [torch.Generator().manual_seed(s) for s in seeds])

    latents, source = normal(2, 5), ddim.embed(["a photo of a person"] * 2)
    direction = torch.stack([0.1 * source[0], -0.3 * source[1]])
    noise = ddim.invert(latents, source, seeded(7, 8))[-1]
    edited = edit_along(ddim, noise, source, direction, 5.0, 1.0)
    for i in range(2):
        one = slice(i, i + 1)
        alone = ddim.invert(latents[one], source[one], seeded(7 + i))[-1]
        torch.testing.assert_close(alone, noise[one])
        made = edit_along(ddim, alone, source[one], direction[one], 5.0, 1.0)
        torch.testing.assert_close(made, edited[one])


def test_regularisation_whitens(ddim: DDIM) -> None:
    """Each of its two terms, on a smooth and strong field, lowers what it is there to lower."""
    field = torch.nn.functional.avg_pool2d(3 * normal(2, 6), 3, 1, 1) + 0.5
    for term, loss in (("correlation", correlation), ("divergence", divergence)):
        weights = {"correlation": 0.0, "divergence": 0.0, term: 20.0}
        generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
        made = NoiseRegularisation(ddim, generators, **weights)(field, field, ddim.timesteps[0])
        assert bool((loss(made) < 0.97 * loss(field)).all()), (term, loss(made), loss(field))


def correlation(noise: Tensor) -> Tensor:
    """Mean over many rolls."""
    generators = [torch.Generator().manual_seed(9) for _ in noise]
    return torch.stack([auto_correlation(noise, generators) for _ in range(50)]).mean(0)


def test_each_channel_is_rolled_by_its_own_amount() -> None:
    x, rolls = torch.randn(2, 3, 4, 5), torch.tensor([[0, 1, 3], [2, 0, 1]])
    for dim in (2, 3):
        made = rolled(x, rolls, dim)
        for i, j in product(range(2), range(3)):
            wanted = torch.roll(x[i, j], int(rolls[i, j]), dim - 2)
            assert torch.equal(made[i, j], wanted)


def test_divergence_is_twice_that_of_normal_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.randn(1, 4, 64, 64, generator=generator, dtype=torch.float64) + 1
    ours = torch.distributions.Normal(noise.mean(), noise.std())
    wanted = 2 * torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(noise)[0], wanted)


def test_noise_is_found_from_every_prediction_type(
    ddim: DDIM, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, noise, t = normal(1, 7), normal(1, 8), ddim.timesteps[1]
    a = ddim.pipeline.scheduler.alphas_cumprod[t].double()
    latents = a.sqrt() * clean + (1 - a).sqrt() * noise
    outputs = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean,
    }
    for kind, output in outputs.items():
        config = {**ddim.pipeline.scheduler.config, "prediction_type": kind}
        monkeypatch.setattr(ddim.pipeline, "scheduler", type(ddim.pipeline.scheduler)(**config))
        made = DDIM(ddim.pipeline, STEPS).epsilon(output, latents, t)
        torch.testing.assert_close(made, noise)


@pytest.fixture(scope="module")
def editor(folder: Path) -> Pix2PixZero:
    made = make_editor("pix2pix_zero", model=str(folder), steps=STEPS, batch=2, device="cpu")
    assert isinstance(made, Pix2PixZero)
    return made


def test_the_editor_edits_a_batch(editor: Pix2PixZero) -> None:
    sources = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]
    results = editor.edit(sources, GREY)
    assert all(isinstance(r, EditResult) for r in results), results
    again = editor.edit(sources[2:], GREY)
    assert isinstance(again[0], EditResult) and isinstance(results[2], EditResult)
    assert np.array_equal(again[0].image, results[2].image)
    other = editor.edit(sources[2:], Concept("blue-000000", "blue hair", "facial", (), "train"))
    assert isinstance(other[0], EditResult)
    assert not np.array_equal(other[0].image, results[2].image)


def test_the_direction_is_the_difference_of_the_sentences_means(
    editor: Pix2PixZero, ddim: DDIM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert editor.text(GREY) == "a person with grey hair"
    assert float(editor.direction(editor.source_subject).abs().max()) == 0
    monkeypatch.setattr(editor, "ddim", ddim)  # the same model in float64
    means = [
        torch.cat([editor.ddim.embed([s.format(subject=who)]) for s in SENTENCES]).mean(0)
        for who in ("a person with grey hair", "a person")
    ]
    torch.testing.assert_close(editor.direction("a person with grey hair"), means[0] - means[1])


def test_evaluations_are_counted_right(
    editor: Pix2PixZero, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = editor.ddim.predict

    def counted(latents: Tensor, t: int, text: Tensor) -> Tensor:
        passes.append((len(latents), torch.is_grad_enabled()))
        return forward(latents, t, text)

    monkeypatch.setattr(editor.ddim, "predict", counted)
    editor.edit([load_source("avatar-0000000", "avatars", 32)], GREY)
    assert sum(n for n, _ in passes) == Pix2PixZero.evaluations(STEPS).forward
    assert sum(n for n, back in passes if back) == Pix2PixZero.evaluations(STEPS).backward
