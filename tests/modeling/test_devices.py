"""Nothing strays from the device it was given: every network under a `cuda` that is not there.

FakeTensorMode carries shapes and devices without data; an operation on tensors of two devices, or
a question for a value, raises. Autograd's threads do not start without the GPU: whole training
steps, backward passes and optimisers included, run on torch's `meta` device, which is as strict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling import losses, precision
from modeling.targets.adapter_training import Critics, to_uint8, to_unit
from modeling.targets.base_training import BaseTraining
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.lora import WAYS, AdaptedTranslator, stack
from modeling.targets.shapes import (
    DiscriminatorConfig,
    ResNetGeneratorConfig,
    TargetConfig,
    TranslatorConfig,
)
from modeling.transfer import to_device
from modeling.weights import weight_generator
from modeling.weights.codec import BlockLayout
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.image_loss import ImageLoss
from modeling.weights.interface import GeneratorConfig, TextBatch
from modeling.weights.learned_steps import RefinerTraining
from modeling.weights.normalisation import Normalisation
from modeling.weights.recipe import GeneratorRecipe
from modeling.weights.refiner import change
from modeling.weights.weight_generator import build, denoising_loss, predict_blocks
from tests.modeling.targets.test_base_training import BASE, base_batch, make_base_training
from tests.modeling.weights import test_generator_training as generators
from tests.modeling.weights import test_learned_steps as refiners
from tests.modeling.weights.small_base import text_of

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


@torch.no_grad()
def test_refiners() -> None:
    setup = refiners.Setup()
    refiner = setup.refiner()
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved(refiner)
        blocks = torch.randn(GROUPS, setup.layout.n_blocks, setup.layout.block_size, device="cuda")
        tokens = torch.randn(GROUPS, 4, refiners.TEXT_DIM, device="cuda")
        mask = torch.ones(GROUPS, 4, dtype=torch.bool, device="cuda")
        said = TextBatch(tokens, mask, tokens[:, 0])
        loss = torch.rand(GROUPS, device="cuda")
        step = change(refiner, blocks, blocks, loss, 1, 2, said)
    assert step.device.type == "cuda" and step.shape == blocks.shape


@pytest.mark.parametrize(
    ("concepts", "calls"), [(1, [1000, 200]), (2, [600, 600]), (64, [64] * 18 + [48])]
)
@torch.no_grad()
def test_a_gpu_predicts_as_many_blocks_at_once_as_it_has_room_for(
    concepts: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_generator, "ON_GPU", 1200 if concepts == 2 else 1000)
    config = GeneratorConfig(
        kind="unet", block_size=8, n_blocks=1200, text_dim=TEXT_DIM, width=8, depth=1, heads=2,
        channels=(4, 8),
    )  # fmt: skip
    model, schedule = build(config), config.noise_schedule()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        noise = torch.randn(concepts, 1200, 8, device="cuda")
        predict_blocks(moved(model), schedule, text(concepts), 900, noise=noise)
    assert seen == calls


def test_a_copy_to_a_gpu_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin_memory(x: Tensor) -> Tensor:
        pinned.append(x)
        return x

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    with FakeTensorMode():
        x = torch.empty(3)
        there = to_device(x, torch.device("cuda"))
        assert there.device.type == "cuda" and pinned == [x]
        assert to_device(there, torch.device("cuda")) is there
        assert to_device(x, torch.device("cpu")) is x
    assert pinned == [x]


def base_step() -> Callable[[], dict[str, Tensor]]:
    made = make_base_training(BASE)
    recipe = replace(BASE, gan_weight=1.0)
    training = BaseTraining(made.translator.to("meta"), made.discriminator.to("meta"), recipe)
    return lambda: training.step(*(v.to("meta") for v in base_batch()))


def generator_step(kind: str, images: bool) -> Callable[[], dict[str, Tensor]]:
    """What it is given is on the CPU, as the stage gives it."""
    setup = generators.Setup()
    recipe = GeneratorRecipe(
        steps=1 - images, image_steps=images, image_gan=0.1 * images, lr=0.01, clip=1.0,
        text_noise=0.1, image_denoising=0.1 * images,
    )  # fmt: skip
    there = setup.training(recipe, kind)
    setup.translator.to("meta")
    training = GeneratorTraining(
        there.model.to("meta"),
        setup.layout,
        setup.normalisation.to("meta"),
        recipe,
        0,
        setup.translator,
        discriminator=there.critic and there.critic.to("meta"),
    )
    return lambda: training.step(setup.blocks, text_of(), setup.images if images else None)


def refiner_step() -> Callable[[], dict[str, Tensor]]:
    setup = refiners.Setup()
    model = setup.refiner().to("meta")
    critic = PatchDiscriminator(DiscriminatorConfig(width=4, layers=1)).to("meta")
    loss = ImageLoss(
        setup.translator.to("meta"), setup.layout, setup.normalisation.to("meta"), critic, 0.1
    )
    training = RefinerTraining(model, loss, refiners.RECIPE, 0)
    return lambda: training.step(setup.start, setup.images)


@pytest.mark.parametrize(
    "make",
    [
        base_step,
        *(
            pytest.param(
                lambda k=k, i=i: generator_step(k, i), id=f"{k}-{('weights', 'images')[i]}"
            )
            for k in ("transformer", "unet")
            for i in (False, True)
        ),
        refiner_step,
    ],
)
def test_whole_training_steps(
    make: Callable[[], Callable[[], dict[str, Tensor]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses.TOGETHER, "meta", 10)  # whose losses nobody can read
    made = make()()
    assert made and {v.device.type for v in made.values()} == {"meta"}


def test_critics_learn_where_they_are() -> None:
    critics = Critics(
        PatchDiscriminator(DiscriminatorConfig(width=4, layers=1)).to("meta"), GROUPS, 1e-3
    )
    x = torch.zeros(GROUPS, BATCH, 3, SIDE, SIDE, device="meta")
    critics.learn(x, x, x)
    assert critics.verdict(x, x).device.type == "meta"


def test_a_gpu_chooses_among_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    precision.use("auto", "cpu")
    assert not torch.backends.cudnn.benchmark
    products = torch.get_float32_matmul_precision()
    try:
        precision.use("auto", "cuda")
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision(products)
