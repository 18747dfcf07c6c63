"""The translator: frozen statistics, prompts and masks, identity start, sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling.targets.conv_norm import ChannelAffine
from modeling.targets.families import frozen_target
from modeling.targets.shapes import TargetError, TranslatorConfig
from modeling.targets.translator import Translator
from tests.rounding import in_float64

TINY: dict[str, Any] = {"width": 8, "text_dim": 6, "heads": 2, "edge_kernel": 3}


def make(**changes: Any) -> Translator:
    """A seeded translator whose head, zero at the start, says something."""
    torch.manual_seed(0)
    network = Translator(TranslatorConfig(**(TINY | changes)))
    with torch.no_grad():
        network.head.weight.normal_(0, 0.2)
    return network


def inputs(batch: int = 3, size: tuple[int, int] = (8, 16), length: int = 4) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(batch, 3, *size, generator=g) * 2 - 1
    tokens = torch.randn(batch, length, 6, generator=g)
    mask = torch.arange(length) < torch.tensor([[length], [2], [1]])[:batch]
    return x, tokens, mask


def trained(network: Translator) -> Translator:
    """A few steps on shifted, scaled images: statistics and affines leave their start."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    x, tokens, mask = inputs()
    for step in range(4):
        loss = (network(0.3 * x + 0.1 * step, tokens, mask) - x.flip(1)).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize("downs", [0, 1, 2])
@torch.no_grad()
@in_float64()
def test_freezing_the_statistics_keeps_the_function(downs: int) -> None:
    with torch.enable_grad():
        network = trained(make(downs=downs))
    x, tokens, mask = inputs()
    before = network(x, tokens, mask)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.running_var - 1).abs().max() > 0.01 for m in norms)
    network.freeze_statistics()
    torch.testing.assert_close(network(x, tokens, mask), before)

    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert sum(isinstance(m, ChannelAffine) for m in network.modules()) == len(norms)
    assert not list(network.buffers())
    # nothing moves when it is used for training: the same function, whatever else is in the batch
    assert torch.equal(network.train()(x, tokens, mask), network.eval()(x, tokens, mask))
    alone = network(x[:1], tokens[:1], mask[:1])
    torch.testing.assert_close(alone, network(x, tokens, mask)[:1])

    again = frozen_target(network.config)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, tokens, mask), network(x, tokens, mask))


def test_freezing_twice_changes_nothing() -> None:
    network = trained(make()).freeze_statistics()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    network.freeze_statistics()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


@torch.no_grad()
@in_float64()
def test_masked_tokens_do_not_count_and_the_others_do() -> None:
    network = make().eval()
    x, tokens, mask = inputs()
    out = network(x, tokens, mask)
    garbage = torch.where(mask[..., None], tokens, 1e4)
    assert torch.equal(network(x, garbage, mask), out)
    padded = torch.cat([tokens, torch.ones(3, 5, 6)], dim=1)
    longer = torch.cat([mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(network(x, padded, longer), out)
    other = tokens.clone()
    other[:, 0] += 1
    assert (network(x, other, mask) - out).abs().flatten(1).amax(1).gt(1e-4).all()


@torch.no_grad()
@in_float64()
def test_one_prompt_for_all_equals_the_same_prompt_for_each() -> None:
    network = make().eval()
    x, tokens, mask = inputs()
    one = network(x, tokens[1:2], mask[1:2])
    each = network(x, tokens[1:2].expand(3, -1, -1), mask[1:2].expand(3, -1))
    torch.testing.assert_close(one, each)
    # and prompts are matched to images by their place in the batch
    mixed = network(x, tokens, mask)
    for i in range(3):
        single = network(x[i : i + 1], tokens[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(mixed[i : i + 1], single)


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
def test_global_skip_starts_as_the_identity(frozen: bool) -> None:
    config = TranslatorConfig(**TINY)
    network = frozen_target(config) if frozen else Translator(config)
    x, tokens, mask = inputs()
    assert torch.equal(network(x, tokens, mask), x)
    assert (network(3 * x, tokens, mask)).abs().max() > 1  # not clamped


@torch.no_grad()
def test_without_global_skip_the_output_is_a_picture_of_its_own() -> None:
    x, tokens, mask = inputs()
    out = make(global_skip=False).eval()(10 * x, tokens, mask)
    assert out.shape == x.shape
    assert out.abs().max() <= 1
    assert (out - x).abs().mean() > 0.1


@pytest.mark.parametrize("global_skip", [False, True])
@pytest.mark.parametrize("long_skips", [False, True])
def test_every_parameter_takes_part(global_skip: bool, long_skips: bool) -> None:
    network = make(global_skip=global_skip, long_skips=long_skips, downs=2)
    x, tokens, mask = inputs(size=(16, 16))
    (network(x, tokens, mask) - x.flip(-1)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_long_skips_carry_detail_past_the_bottleneck() -> None:
    x, tokens, mask = inputs()
    plain, skipping = make(long_skips=False).eval(), make(long_skips=True).eval()
    skipping.load_state_dict(plain.state_dict())
    for network in (plain, skipping):  # shut everything between the encoder and the decoder
        for name in ("up.conv", "decoder.0.conv"):
            network.get_parameter(f"{name}.weight").zero_()
    change = [(n(x, tokens, mask) - x).std(dim=(2, 3)).max() for n in (plain, skipping)]
    assert change[0] < 0.2 * change[1]  # a flat colour, but for the border


@torch.no_grad()
def test_dropout_is_noise_in_training_only() -> None:
    network = make(dropout=0.5).freeze_statistics()
    x, tokens, mask = inputs()
    network.train()
    assert not torch.equal(network(x, tokens, mask), network(x, tokens, mask))
    network.eval()
    assert torch.equal(network(x, tokens, mask), network(x, tokens, mask))


@pytest.mark.parametrize(("downs", "multiple"), [(0, 2), (1, 4), (2, 8)])
@pytest.mark.parametrize("long_skips", [False, True])
@torch.no_grad()
def test_sides_must_be_multiples(downs: int, multiple: int, long_skips: bool) -> None:
    network = make(downs=downs, long_skips=long_skips).eval()
    assert network.multiple == multiple
    tokens, mask = inputs()[1:]
    for size in ((multiple, 3 * multiple), (2 * multiple, multiple)):
        x = torch.zeros(3, 3, *size)
        assert network(x, tokens, mask).shape == x.shape
    for size in ((16, 16 + multiple // 2), (16 + multiple // 2, 16), (15, 16)):
        with pytest.raises(TargetError, match=f"multiples of {multiple}"):
            network(torch.zeros(3, 3, *size), tokens, mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads"),
        ({"edge_kernel": 4}, "edge_kernel"),
        ({"dropout": 1.0}, "dropout"),
        ({"width": 0}, "width"),
        ({"downs": -1}, "downs"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        TranslatorConfig(**(TINY | changes))


def test_the_config_survives_json() -> None:
    config = TranslatorConfig(**TINY, dropout=0.25)
    assert TranslatorConfig(**config.to_dict()) == config


@torch.no_grad()
@in_float64()
def test_the_gated_feed_forward_is_stable_diffusions() -> None:
    from diffusers.models.attention import FeedForward

    network = make(feed_forward=4, gated=True).eval()
    block = network.transformer
    reference = FeedForward(block.norm_mlp.normalized_shape[0], mult=4, activation_fn="geglu")
    reference.net[0].proj.load_state_dict(block.expand.state_dict())
    reference.net[2].load_state_dict(block.contract.state_dict())
    seen: list[Tensor] = []
    block.norm_mlp.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    block.contract.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    network(*inputs())
    torch.testing.assert_close(reference(seen[0]), seen[1])
