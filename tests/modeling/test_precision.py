"""Training in bfloat16: as good as in float32 to a stated part, and nothing kept is bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modeling import precision
from modeling.precision import BFLOAT16, FLOAT32, PRECISIONS, TF32, resolved, use
from modeling.targets.adapter_training import train_adapters
from modeling.targets.recipe import Recipe
from modeling.weights.recipe import GeneratorRecipe
from tests.modeling.baselines.test_scratch_training import RECIPE as SCRATCH
from tests.modeling.baselines.test_scratch_training import make as scratch
from tests.modeling.targets.test_base_training import BASE, base_batch, make_base_training
from tests.modeling.targets.tiny_training import make_concept, make_discriminator, make_translator
from tests.modeling.weights import test_generator_training as generators
from tests.modeling.weights import test_learned_steps as refiners
from tests.modeling.weights.small_base import text_of

PRODUCTS = {"convolution", "mm", "addmm", "bmm", "baddbmm"}
PART = 0.05
"""Of the float32 training's last loss that a bfloat16 one may differ by."""


class Outcome(NamedTuple):
    losses: list[float]
    kept: list[Tensor]


class ProductTypes(TorchDispatchMode):
    """In which types convolutions and matrix products were made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.seen |= {x.dtype for x in args if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))


@contextmanager
def used(name: str) -> Iterator[None]:
    use(name, "cpu")
    try:
        yield
    finally:
        use(FLOAT32, "cpu")


def adapters(gan_weight: float) -> Outcome:
    recipe = Recipe(20, 4, 0.02, gan_weight=gan_weight, ema=0.9)
    concepts = [make_concept(i) for i in range(2)]
    translator = make_translator()
    starts = [translator.zero_adapter()] * 2
    made = train_adapters(translator, concepts, starts, recipe, make_discriminator(), 0, keep=[2])
    kept = [one.adapter or {} for one in made] + [made[0].checkpoints[2]]
    losses = [sum(pair) / 2 for pair in zip(made[0].losses, made[1].losses, strict=True)]
    return Outcome(losses, [v for adapter in kept for v in adapter.values()])


def base() -> Outcome:
    training = make_base_training(BASE)
    losses = [float(training.step(*base_batch())["l1"]) for _ in range(30)]
    return Outcome(losses, held(training.translator, training.discriminator))


def held(*modules: torch.nn.Module) -> list[Tensor]:
    return [v for m in modules for v in m.state_dict().values() if v.is_floating_point()]


def weight_generator(kind: str) -> Outcome:
    setup = generators.Setup()
    recipe = GeneratorRecipe(steps=8, lr=0.01, image_steps=8, image_gan=0.1, image_lr=3e-3)
    training = setup.training(recipe, kind)
    losses = []
    for step in range(16):
        images = setup.images if step >= 8 else None
        found = training.step(setup.blocks, text_of(), images)
        losses.append(float(found["image" if images else "denoising"]))
    return Outcome(losses, [*held(training.model), *training.ema.average.values()])


def refiner() -> Outcome:
    setup = refiners.Setup()
    training = setup.training(replace(refiners.RECIPE, steps=10))
    losses = [float(training.step(setup.start, setup.images)["after 2"]) for _ in range(10)]
    return Outcome(losses, [*held(training.model), *training.ema.average.values()])


def from_scratch(method: str) -> Outcome:
    training = scratch(method, replace(SCRATCH, epochs=6))
    training.train(6)
    return Outcome(training.losses, held(training.generator, training.discriminator))


TRAININGS: dict[str, Callable[[], Outcome]] = {
    "adapters by L1": lambda: adapters(0.0),
    "adapters": lambda: adapters(1.0),
    "base": base,
    "transformer": lambda: weight_generator("transformer"),
    "unet": lambda: weight_generator("unet"),
    "refiner": refiner,
    "pix2pix": lambda: from_scratch("pix2pix"),
    "pix2pix-zero-distilled": lambda: from_scratch("pix2pix-zero-distilled"),
}


@pytest.mark.parametrize("train", TRAININGS.values(), ids=list(TRAININGS))
def test_bfloat16_trains_as_float32_does(train: Callable[[], Outcome]) -> None:
    expected = train()
    with used(BFLOAT16), ProductTypes() as rough:
        found = train()
    assert torch.bfloat16 in rough.seen
    last = len(expected.losses) // 5
    wanted, got = (sum(o.losses[-last:]) / last for o in (expected, found))
    assert got == pytest.approx(wanted, rel=PART)
    assert found.losses != expected.losses
    assert {v.dtype for v in found.kept} == {torch.float32}


def test_a_process_can_go_back_to_float32() -> None:
    expected = base()
    with used(BFLOAT16):
        pass
    with ProductTypes() as exact:
        assert base().losses == expected.losses
    assert exact.seen == {torch.float32}


@pytest.mark.parametrize(
    ("name", "device", "comes_to"),
    [
        ("auto", "cuda", TF32),
        ("auto", "cpu", FLOAT32),
        (TF32, "cuda", TF32),
        (TF32, "cpu", FLOAT32),
        (FLOAT32, "cuda", FLOAT32),
        (BFLOAT16, "cpu", BFLOAT16),
        (BFLOAT16, "cuda", BFLOAT16),
    ],
)
def test_what_a_precision_comes_to(name: str, device: str, comes_to: str) -> None:
    assert resolved(name, device) == comes_to
    assert comes_to in PRECISIONS


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision=float16: one of auto, float32"):
        use("float16", "cpu")


@pytest.mark.parametrize(("name", "rounded"), [(FLOAT32, False), (TF32, True), ("auto", True)])
def test_a_gpus_products_are_rounded_where_that_is_said(
    name: str, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not rounded)
    before = torch.get_float32_matmul_precision()
    try:
        use(name, "cuda")
        assert torch.backends.cudnn.allow_tf32 == rounded
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    finally:
        torch.set_float32_matmul_precision(before)
    assert precision._autocast is None
