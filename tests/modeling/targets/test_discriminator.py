"""The discriminator, and its losses against their definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.shapes import DiscriminatorConfig
from tests.rounding import in_float64


@in_float64()
def test_gan_losses_are_cross_entropies() -> None:
    g = torch.Generator().manual_seed(0)
    real, fake = (3 * torch.randn(2, 1, 3, 3, generator=g) for _ in range(2))
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    bce = F.binary_cross_entropy_with_logits
    expected = (bce(real, one) + bce(fake, zero)) / 2
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(adversarial_loss(fake), bce(fake, one))


@torch.no_grad()
@in_float64()
def test_discriminator_judges_patches_of_pairs() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(DiscriminatorConfig(width=8, layers=3))
    x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert network(x, y).shape == (2, 1, 6, 6)
    assert not torch.allclose(network(x, y), network(y, x), atol=1e-3)
    assert not list(network.buffers())
    torch.testing.assert_close(network(x, y)[:1], network(x[:1], y[:1]))
