"""Nothing strays from the device it was given: every network under a `cuda` that is not there.

FakeTensorMode carries shapes and devices without data; an operation on tensors of two devices, or
a question for a value, raises.
"""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling.targets.adapter_training import Critics, to_uint8, to_unit
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.lora import WAYS, AdaptedTranslator, stack
from modeling.targets.shapes import (
    DiscriminatorConfig,
    ResNetGeneratorConfig,
    TargetConfig,
    TranslatorConfig,
)
from modeling.weights.codec import BlockLayout
from modeling.weights.interface import GeneratorConfig, TextBatch
from modeling.weights.normalisation import Normalisation
from modeling.weights.weight_generator import build, denoising_loss, predict_blocks

Module = TypeVar("Module", bound=nn.Module)
TEXT_DIM, GROUPS, BATCH, SIDE = 6, 3, 2, 16
TARGETS: dict[str, TargetConfig] = {
    "translator": TranslatorConfig(width=8, text_dim=TEXT_DIM, heads=2, edge_kernel=3),
    "gated": TranslatorConfig(
        width=8, text_dim=TEXT_DIM, heads=2, gated=True, feed_forward=2, dropout=0.1
    ),
    "resnet": ResNetGeneratorConfig(width=4, downs=1, blocks=1, transposed=False),
}


def text(count: int) -> TextBatch:
    tokens = torch.randn(count, 4, TEXT_DIM, device="cuda")
    return TextBatch(tokens, torch.ones(count, 4, dtype=torch.bool, device="cuda"), tokens[:, 0])


def pictures(*shape: int) -> Tensor:
    return torch.zeros(*shape, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")


def moved(module: Module) -> Module:
    """`module.to("cuda")`, which cannot swap what has no data."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                there = torch.empty_like(p, device="cuda")
                part._parameters[name] = nn.Parameter(there, requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty_like(b, device="cuda")
    return module


def adapted(target: TargetConfig) -> AdaptedTranslator:
    translator = AdaptedTranslator(frozen_target(target), 2)
    return translator


def there(translator: AdaptedTranslator) -> AdaptedTranslator:
    moved(translator.network)
    translator._initial = {k: v.to("cuda") for k, v in translator._initial.items()}
    return translator


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
@torch.no_grad()
def test_translators(target: TargetConfig, way: str, training: bool) -> None:
    translator = adapted(target)
    translator.network.train(training)
    with FakeTensorMode(allow_non_fake_inputs=True):
        adapters = stack([there(translator).zero_adapter()] * GROUPS)
        x, said = to_unit(pictures(GROUPS, BATCH)), text(GROUPS)
        made = translator.translate(adapters, x, said.tokens, said.mask, way)
        assert made.device.type == "cuda" and made.shape == x.shape
        assert to_uint8(made).device.type == "cuda"


@torch.no_grad()
def test_what_strays_is_noticed() -> None:
    translator = adapted(TARGETS["translator"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        adapters = stack([there(translator).zero_adapter()] * GROUPS)
        x, said = to_unit(pictures(GROUPS, BATCH)), text(GROUPS)
        with pytest.raises(RuntimeError, match="cpu"):
            translator.translate(adapters, x, said.tokens.cpu(), said.mask)


@torch.no_grad()
def test_discriminators() -> None:
    critic = PatchDiscriminator(DiscriminatorConfig(width=4, layers=1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        critics = Critics(moved(critic), GROUPS, 1e-3)
        x = to_unit(pictures(GROUPS, BATCH))
        assert critics.judge(critics.params, x, x).device.type == "cuda"


@pytest.mark.parametrize("prediction", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("kind", ["transformer", "unet"])
@torch.no_grad()
def test_weight_generators_and_codec(kind: str, prediction: str) -> None:
    translator = adapted(TARGETS["translator"])
    layout = BlockLayout.build(translator.shapes, translator.groups, 1, 32)
    start = layout.to_blocks(stack([translator.zero_adapter()] * 2))
    normalisation = Normalisation.fit(start + torch.randn_like(start), layout)
    config = GeneratorConfig(
        kind=kind,
        block_size=layout.block_size,
        n_blocks=layout.n_blocks,
        text_dim=TEXT_DIM,
        width=16,
        depth=1,
        heads=2,
        channels=(4, 8),
        prediction=prediction,
    )
    model, schedule = build(config), config.noise_schedule()
    with FakeTensorMode(allow_non_fake_inputs=True):
        normalisation, mask = normalisation.to("cuda"), layout.mask.to("cuda")
        moved(model)
        x0 = normalisation.apply(layout.to_blocks(stack([there(translator).zero_adapter()] * 3)))
        index = torch.arange(layout.n_blocks, device="cuda")
        t = torch.zeros(GROUPS, dtype=torch.int64, device="cuda")
        noise = torch.randn_like(x0)
        loss = denoising_loss(model, schedule, x0, index, mask, text(GROUPS), t, noise)
        assert loss.device.type == "cuda"
        found = predict_blocks(model, schedule, text(GROUPS), 900, noise=noise, mask_w=mask)
        made = layout.from_blocks(normalisation.invert(found))
    assert {v.device.type for v in made.values()} == {"cuda"}
    assert made.keys() == translator.shapes.keys()
