"""The from-scratch baselines as configured: the paper's sizes, and what is refused."""

from __future__ import annotations

import pytest
import torch

from modeling.flops import META, weights_of
from pipelines.comparison.from_scratch import make_baseline
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config, preset_names
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES


def on_meta(config: Config, method: str, count: int = 8):
    size = config.images.size
    images = torch.empty(count, 3, size, size, dtype=torch.uint8, device=META)
    return make_baseline(config, method, images, images, 0, META)


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", BASELINES)
def test_every_preset_has_both(preset: str, method: str) -> None:
    training = on_meta(load_config([f"preset={preset}"]), method)
    assert training.method == method
    assert training.step_flops > training.image_flops > 0
    assert training.trainable == training.total


def test_the_papers_sizes_and_recipes() -> None:
    """Sec. 5.1: 9 ResNet blocks; 800 images, 200 epochs. pix2pix: batch 1, λ = 100, lr 2e-4."""
    config = load_config(["preset=paper"])
    ours = {method: on_meta(config, method) for method in BASELINES}
    assert ours["pix2pix"].total == pytest.approx(11.38e6, rel=1e-3)
    assert weights_of(ours["pix2pix"].discriminator) == 2_768_705
    assert ours["pix2pix-zero-distilled"].total == pytest.approx(77.6e6, rel=0.05)
    assert {t.recipe.epochs for t in ours.values()} == {200}
    recipe = ours["pix2pix"].recipe
    assert (recipe.batch, recipe.l1_weight, recipe.lr) == (1, 100, 2e-4)
    assert (recipe.constant, recipe.jitter, recipe.flips) == (0.5, 0, False)
    # batch norm at batch 1
    assert (config.pix2pix.norm, config.pix2pix.dropout) == ("instance", 0.5)
    assert recipe.steps(200, 800) == 160_000


@pytest.mark.parametrize("method", BASELINES)
def test_tiny_trains(method: str) -> None:
    config = load_config(["preset=tiny"])
    source = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    training = make_baseline(config, method, source, 255 - source, seed=0)
    training.train(training.recipe.epochs)
    assert training.losses[-1] < training.losses[0]
    assert training.translate(source).shape == source.shape


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pix2pix.epochs=0"], "pix2pix.epochs=0: must be at least 1"),
        (["pix2pix.lr=0"], "pix2pix.lr=0.0: must be more than 0"),
        (["pix2pix.dropout=1"], r"pix2pix.dropout=1.0: must lie in \[0, 1\)"),
        (["pix2pix.constant=2"], "pix2pix.constant=2.0: is a part, at most 1"),
        (["pix2pix.norm=layer"], "pix2pix.norm=layer: must be one of batch, instance"),
        (["pix2pix.jitter=-1"], "pix2pix.jitter=-1: must be at least 0"),
        (["pix2pix.r1=1"], "unknown key pix2pix.r1"),
        (["comodgan.batch=0"], "comodgan.batch=0: must be at least 1"),
        (["comodgan.r1=-1"], "comodgan.r1=-1.0: must be at least 0"),
        (["comodgan.constant=-1"], "comodgan.constant=-1.0: must be at least 0"),
        (["comodgan.lr=nan"], "comodgan.lr=nan: must be more than 0"),
        (["comodgan.blocks=3"], "unknown key comodgan.blocks"),
    ],
)
def test_values_that_are_not_allowed(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config(["preset=tiny", *words])


@pytest.mark.parametrize(
    ("method", "words", "expected"),
    [
        ("cyclegan", [], "method=cyclegan: must be one of pix2pix-zero-distilled, pix2pix"),
        (
            "pix2pix",
            ["images.size=20", "pix2pix.downs=3"],
            "images.size=20: must be a multiple of 8, 32 or more, with pix2pix.downs=3",
        ),
        (
            "pix2pix",
            ["pix2pix.discriminator_layers=4"],
            "images.size=32: must be at least 64 with pix2pix.discriminator_layers=4",
        ),
        ("pix2pix-zero-distilled", ["images.size=48"], "takes a power of two, 16 or more"),
        (
            "pix2pix-zero-distilled",
            ["comodgan.channel_base=16"],
            "comodgan.channel_base=16: must be at least images.size=32",
        ),
    ],
)
def test_images_that_a_method_cannot_take(method: str, words: list[str], expected: str) -> None:
    """Only where the method is asked for: other images.size were always allowed."""
    config = load_config(["preset=tiny", *words])
    with pytest.raises(ConfigError, match=expected):
        on_meta(config, method)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_images_that_a_discriminator_takes(layers: int) -> None:
    size = 2**layers * 4
    words = [f"pix2pix.discriminator_layers={layers}", "pix2pix.downs=1"]
    config = load_config(["preset=tiny", *words, f"images.size={max(size, 16)}"])
    assert on_meta(config, "pix2pix").step_flops > 0
