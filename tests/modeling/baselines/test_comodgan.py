"""Co-Mod-GAN: its size, what the generator depends on, and what the discriminator sees."""

from __future__ import annotations

import pytest
import torch

from modeling.baselines.comodgan import (
    CoModGanConfig,
    CoModGanError,
    CoModGenerator,
    StyleGanDiscriminator,
)
from modeling.flops import META, weights_of
from tests.rounding import in_float64

TINY = CoModGanConfig(16, channel_base=64, channel_max=8, z_dim=6, w_dim=5, mapping_layers=2)


def generator() -> CoModGenerator:
    torch.manual_seed(0)
    return CoModGenerator(TINY).eval()


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    source = torch.rand(batch, 3, 16, 16, generator=rng) * 2 - 1
    return source, torch.randn(batch, 6, generator=rng)


def test_the_published_generator_has_as_many_weights_as_the_papers_baseline() -> None:
    config = CoModGanConfig()
    with META:
        network, critic = CoModGenerator(config), StyleGanDiscriminator(config)
    assert weights_of(network) == pytest.approx(77.6e6, rel=0.05)
    # StyleGAN2's at 256 pixels, with three more channels to read
    assert weights_of(critic) == pytest.approx(28.9e6, rel=0.01)
    assert [config.channels(s) for s in config.sides] == [512] * 5 + [256, 128]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_sizes(size: int) -> None:
    config = CoModGanConfig(size, 128, 8, 4, 4, 1)
    source = torch.randn(2, 3, size, size)
    image = CoModGenerator(config)(source, torch.randn(2, 4))
    assert image.shape == source.shape
    assert StyleGanDiscriminator(config)(source, image).shape == (2,)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 8}, "size=8: must be a power of two, 16 or more"),
        ({"size": 48}, "size=48"),
        ({"size": 64, "channel_base": 32}, "channel_base=32: must be at least size=64"),
        ({"channel_max": 0}, "channel_max at least 1"),
        ({"z_dim": 0}, "start at 1"),
        ({"mapping_layers": 0}, "start at 1"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_shapes_are_refused(keys: dict[str, int], message: str) -> None:
    with pytest.raises(CoModGanError, match=message):
        CoModGanConfig(**keys)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(CoModGanError, match="images are 32×32: they must be 16×16"):
        generator()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 6))


def test_every_weight_has_a_part_in_the_image() -> None:
    network = generator()
    source, z = inputs()
    network(source, z).square().sum().backward()
    still = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_the_source_is_seen_as_a_whole_and_in_place() -> None:
    network = generator()
    source, z = inputs(1)
    source.requires_grad_()
    image = network(source, z)
    (gradient,) = torch.autograd.grad(image[0, :, 0, 0].sum(), source)
    strength = gradient.abs().sum((0, 1))
    assert strength.min() > 0  # the global code
    assert strength[:3, :3].mean() > 2 * strength[-3:, -3:].mean()  # the features


@in_float64()
def test_styles_and_images_are_each_images_own() -> None:
    network = generator()
    source, z = inputs()
    together = network(source, z)
    assert torch.equal(together, network(source, z))
    torch.testing.assert_close(together[1:2], network(source[1:2], z[1:2]))
    assert not torch.allclose(together, network(source, z.roll(1, 0)), atol=1e-3)
    network.train()  # dropout of the code
    assert not torch.allclose(network(source, z), network(source, z), atol=1e-3)


def test_the_discriminator_sees_pairs() -> None:
    torch.manual_seed(0)
    network = StyleGanDiscriminator(TINY)
    source, edited = torch.randn(2, 4, 3, 16, 16)
    logits = network(source, edited)
    assert not torch.allclose(logits, network(source.roll(1, 0), edited), atol=1e-3)
    assert not torch.allclose(logits, network(source, edited.roll(1, 0)), atol=1e-3)
    # and whether the images of a batch differ
    assert not torch.allclose(logits[:1], network(source[:1], edited[:1]), atol=1e-4)
