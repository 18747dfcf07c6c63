"""pix2pix-zero on tiny random pipelines, against diffusers' deprecated pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.diffusion_editors.ddim_inversion import DDIM
from modeling.diffusion_editors.noise_regularisation import (
    NoiseRegularisation,
)
from modeling.diffusion_editors.pix2pix_zero import edit_along
from tests import tiny_diffusion

STEPS = 4


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
    assert not torch.allclose(unguided, wanted, atol=1e-5)
