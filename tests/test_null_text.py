"""DDIM inversion, attention control and null-text inversion on tiny random pipelines."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from modeling.concepts import Concept
from modeling.diffusion_editors.ddim_inversion import DDIM
from modeling.diffusion_editors.null_text import Inversion, follow, optimise_nulls
from modeling.editors import load_source
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


def test_inversion_is_undone_exactly_where_the_noise_does_not_depend_on_x(pipeline: Any) -> None:
    ddim = DDIM(pipeline, 10)
    noise = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    ddim.predict = lambda latents, t, text: noise  # type: ignore[method-assign]
    latents = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    path = ddim.invert(latents, torch.zeros(2, 77, 32))
    assert path.shape == (11, 2, 4, 16, 16)
    torch.testing.assert_close(ddim.sample(path[-1], torch.zeros(2, 77, 32)), latents)
    assert not torch.allclose(path[-1], latents, atol=0.1)


@torch.no_grad()
def test_inversion_comes_back_closer_with_more_steps(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an untrained UNet varies too fast with x for so few steps
    calm = copy.deepcopy(pipeline.unet)
    calm.conv_out.weight.mul_(0.1)
    monkeypatch.setattr(pipeline, "unet", calm)
    errors = []
    for steps in (10, 20, 40):
        ddim, path, texts, _ = inversion(pipeline, steps, 2, seed=0)
        errors.append(distance(ddim.sample(path[-1], texts), path[0]).max())
    # first order: half the step, a quarter of the squared error in the limit
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[0] < 0.01


@torch.no_grad()
def test_inversion_of_a_batch_is_that_of_its_pictures(pipeline: Any) -> None:
    ddim, path, texts, _ = inversion(pipeline, 5, 3, seed=1)
    for i in range(3):
        torch.testing.assert_close(ddim.invert(path[0, i : i + 1], texts[:1]), path[:, i : i + 1])


@pytest.mark.parametrize("seed", range(3))
def test_null_texts_bring_every_picture_closer(pipeline: Any, seed: int) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 5, 3, seed)
    plain = Inversion(pivots, null.repeat(5, 1, 1, 1), texts)
    errors = [distance(follow(ddim, plain, 7.5)[-1], pivots[0])]
    for inner_steps in (2, 10):
        nulls = optimise_nulls(ddim, pivots, texts, null, 7.5, inner_steps)
        errors.append(distance(follow(ddim, Inversion(pivots, nulls, texts), 7.5)[-1], pivots[0]))
    assert bool((errors[2] < errors[1]).all() and (errors[1] < errors[0]).all()), errors


def test_null_texts_of_a_batch_are_those_of_its_pictures(pipeline: Any) -> None:
    ddim, pivots, texts, null = inversion(pipeline, 3, 3, seed=4)
    together = optimise_nulls(ddim, pivots, texts, null, 7.5, 4)
    for i in range(3):
        one = slice(i, i + 1)
        alone = optimise_nulls(ddim, pivots[:, one], texts[one], null[one], 7.5, 4)
        torch.testing.assert_close(alone, together[:, one], rtol=0, atol=1e-6)
    assert float((together[:, 0] - together[:, 1]).abs().max()) > 1e-3
