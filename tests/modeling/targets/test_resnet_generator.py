"""The 9-block ResNet generator and the PatchGAN, against what pix2pix publishes of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modeling.flops import META, weights_of
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.resnet_generator import ResNetGenerator
from modeling.targets.shapes import DiscriminatorConfig, ResNetGeneratorConfig
from tests.rounding import in_float64

SMALL = ResNetGeneratorConfig(width=4, blocks=1)


def test_the_published_generator_has_11_38_million_weights() -> None:
    with META:
        network = ResNetGenerator(ResNetGeneratorConfig())
    assert weights_of(network) == 11_383_427


@pytest.mark.parametrize("transposed", [True, False])
def test_images_keep_their_shape_and_are_bounded(transposed: bool) -> None:
    torch.manual_seed(0)
    network = ResNetGenerator(ResNetGeneratorConfig(width=4, blocks=2, transposed=transposed))
    image = network(torch.randn(2, 3, 16, 24))
    assert image.shape == (2, 3, 16, 24)
    assert image.abs().max() < 1


def test_the_start_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = ResNetGenerator(ResNetGeneratorConfig(width=16, blocks=2))
    weights = torch.cat(
        [m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Conv2d)]
    )
    assert weights.std() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean()) < 1e-3


@pytest.mark.parametrize("sides", [(18, 16), (16, 18), (8, 16)])
def test_sides_that_do_not_fit_are_named(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{sides[0]}×{sides[1]}"):
        ResNetGenerator(SMALL)(torch.zeros(1, 3, *sides))


@pytest.mark.parametrize("keys", [{"width": 0}, {"blocks": 0}, {"downs": -1}, {"dropout": 1.0}])
def test_impossible_shapes_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="dropout"):
        ResNetGeneratorConfig(**keys)


def test_the_published_discriminator_has_2_77_million_weights() -> None:
    with META:
        network = PatchDiscriminator(DiscriminatorConfig(norm="batch"))
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert weights_of(network) == 2_768_705  # what the published code prints
    assert [(c.in_channels, c.out_channels) for c in convs] == [
        (6, 64),
        (64, 128),
        (128, 256),
        (256, 512),
        (512, 1),
    ]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]
    assert {c.kernel_size for c in convs} == {(4, 4)}
    # a bias only where no norm follows
    assert [c.bias is not None for c in convs] == [True, False, False, False, True]


@in_float64()
def test_batch_norm_judges_by_the_batch_and_keeps_no_statistics() -> None:
    torch.manual_seed(0)
    source, edited = torch.randn(2, 4, 3, 32, 32)
    for norm, alone in (("batch", False), ("instance", True)):
        network = PatchDiscriminator(DiscriminatorConfig(width=4, layers=2, norm=norm))
        before = {k: v.clone() for k, v in network.state_dict().items()}
        together, one = network(source, edited)[:1], network(source[:1], edited[:1])
        assert torch.allclose(together, one, atol=1e-7) is alone
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_the_discriminator_sees_pairs(norm: str) -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(DiscriminatorConfig(width=4, layers=2, norm=norm))
    source, edited = torch.randn(2, 4, 3, 32, 32)
    logits = network(source, edited)
    assert not torch.allclose(logits, network(source.roll(1, 0), edited), atol=1e-4)
    assert not torch.allclose(logits, network(source, edited.roll(1, 0)), atol=1e-4)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm='layer': must be instance or batch"):
        PatchDiscriminator(DiscriminatorConfig(norm="layer"))
