"""Losses are read late, all of them are looked at, and a step asks its device for no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling import losses
from modeling.losses import RECENT, Losses, RecentMeans
from modeling.targets.adapter_training import train_adapters
from modeling.targets.recipe import Recipe
from modeling.weights.recipe import GeneratorRecipe
from tests.modeling.targets.test_base_training import BASE, base_batch, make_base_training
from tests.modeling.targets.tiny_training import make_concept, make_discriminator, make_translator
from tests.modeling.weights import test_generator_training as generators
from tests.modeling.weights import test_learned_steps as refiners
from tests.modeling.weights.small_base import text_of


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: five steps are looked at at once."""
    monkeypatch.setitem(losses.TOGETHER, "cpu", 5)


BAD = pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])


@BAD
def test_on_a_cpu_a_loss_is_looked_at_at_once(bad: str) -> None:
    kept = Losses("training")
    kept.add(1, torch.tensor(0.5))
    with pytest.raises(FloatingPointError, match=f"training: loss is {bad} at step 2"):
        kept.add(2, torch.tensor(float(bad)))


@BAD
@pytest.mark.usefixtures("together")
def test_on_a_gpu_the_first_bad_one_of_several_is_named(bad: str) -> None:
    kept = Losses("training")
    for step in range(1, 5):
        kept.add(step, torch.tensor(float(bad if step > 2 else 1)))
    with pytest.raises(FloatingPointError, match=f"loss is {bad} at step 3"):
        kept.add(5, torch.tensor(1.0))


@pytest.mark.usefixtures("together")
def test_nothing_bad_is_saved() -> None:
    """A state is not given away while a loss of its steps has not been looked at."""
    training = make_base_training(BASE)
    batch = base_batch()
    training.step(*batch)
    training.state()
    training.step(*batch)
    with torch.no_grad():
        training.translator.head.weight.fill_(float("nan"))
    training.step(*batch)
    with pytest.raises(FloatingPointError, match="base training: loss is nan at step 3"):
        training.state()


def test_means_are_of_the_last_values() -> None:
    means = RecentMeans()
    assert str(means) == "" and means.read() == {}
    for i in range(RECENT + 10):
        means.add({"L1": torch.tensor(float(i)), "discriminator": torch.tensor(0.25)})
    assert means.read() == {"L1": 10 + (RECENT - 1) / 2, "discriminator": 0.25}
    assert str(means) == "L1 34.500, discriminator 0.250"


class Asked(TorchDispatchMode):
    """How often a tensor was made a number of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero", "equal")
        return func(*args, **(kwargs or {}))


def base_step() -> Callable[[], object]:
    training, batch = make_base_training(BASE), base_batch()
    return lambda: training.step(*batch)


def generator_step(images: bool) -> Callable[[], object]:
    setup = generators.Setup()
    steps = {"steps": 0, "image_steps": 9} if images else {"steps": 9}
    training = setup.training(GeneratorRecipe(lr=0.01, image_gan=0.1 * images, **steps))
    return lambda: training.step(setup.blocks, text_of(), setup.images if images else None)


def refiner_step() -> Callable[[], object]:
    setup = refiners.Setup()
    training = setup.training(replace(refiners.RECIPE, steps=9))
    return lambda: training.step(setup.start, setup.images)


STEPS: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "base": (base_step, 0),
    # of its time steps, which are checked where they are on the CPU
    "weights": (lambda: generator_step(False), 4),
    "images": (lambda: generator_step(True), 4),
    "refiner": (refiner_step, 2),  # of its random draws, which are made on the CPU
}


@pytest.mark.parametrize(("make", "allowed"), STEPS.values(), ids=list(STEPS))
@pytest.mark.usefixtures("together")
def test_a_step_waits_for_nothing(
    make: Callable[[], Callable[[], object]], allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make()
    for optimiser in (torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(optimiser, "step", lambda self: None)  # counts on the CPU, anywhere
    step()
    with Asked() as asked:
        step()
    assert asked.count == allowed


def test_adapters_are_trained_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """But at the end: a number of questions that does not grow with the steps."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    translator = make_translator()
    counts = []
    for steps in (2, 6):
        recipe = Recipe(steps, 4, 0.02, clip=1.0, ema=0.9)
        with Asked() as asked:
            (made,) = train_adapters(
                translator,
                [make_concept(0)],
                [translator.zero_adapter()],
                recipe,
                make_discriminator(),
                0,
            )
        counts.append(asked.count)
        assert len(made.losses) == steps
    assert counts[0] == counts[1]
