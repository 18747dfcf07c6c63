"""torch.compile changes no training: the same weights, the same draws; and it says what it lacks.

With the backend that runs what Dynamo has traced as it is: a compiler is not on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modeling import compiling
from modeling.compiling import CompilerError, compiled
from modeling.targets.adapter_training import ConceptData, train_adapters
from modeling.targets.lora import MERGED, WAYS
from modeling.targets.recipe import Recipe
from modeling.weights.recipe import GeneratorRecipe
from tests.modeling.targets.test_base_training import (
    BASE,
    base_batch,
    everything,
    make_base_training,
)
from tests.modeling.targets.tiny_training import (
    distance,
    make_concept,
    make_discriminator,
    make_translator,
)
from tests.modeling.weights import test_generator_training as generators
from tests.modeling.weights.small_base import text_of
from tests.rounding import in_float64


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was compiled; the process is left as it was."""
    made: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        made.append(str(graph.graph))
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    yield made
    compiling._on = False
    torch.compiler.reset()


def both(
    make: Callable[[], dict[str, Tensor]], traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Without and with it; it has compiled something only then."""
    usual = make()
    assert traced == []
    monkeypatch.setattr(compiling, "_check", lambda kind: None)
    compiling.use(True, "cpu")
    found = make()
    assert traced
    return usual, found


@in_float64()
def test_the_base(traced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, Tensor]:
        training = make_base_training(replace(BASE, gan_weight=1.0))
        source, edited, tokens, mask = base_batch()
        for _ in range(3):
            training.step(source.double(), edited.double(), tokens, mask)
        return everything(training)

    usual, found = both(trained, traced, monkeypatch)
    assert found.keys() == usual.keys()  # of a checkpoint, too
    assert all(torch.allclose(usual[k], found[k], atol=1e-7) for k in usual)


@pytest.mark.parametrize("way", WAYS)
@in_float64()
def test_adapters(way: str, traced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout's draws are among what is the same."""
    concepts: list[ConceptData] = [make_concept(0, length=3), make_concept(1, length=3)]
    recipe = Recipe(3, 4, 0.02, gan_weight=1.0)

    def trained() -> dict[str, Tensor]:
        translator = make_translator(dropout=0.3)
        made = train_adapters(
            translator,
            concepts,
            [translator.zero_adapter()] * 2,
            recipe,
            make_discriminator(),
            0,
            way=way,
        )
        return {
            f"{i}.{k}": v for i, m in enumerate(made) if m.adapter for k, v in m.adapter.items()
        }

    if way != MERGED:  # functorch's transforms are not compiled
        usual = trained()
        compiling._on = True
        found = trained()
    else:
        usual, found = both(trained, traced, monkeypatch)
    assert usual and distance(usual, found) < 1e-7


@pytest.mark.parametrize("kind", ["transformer", "unet"])
def test_the_weight_generator(
    kind: str, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> dict[str, Tensor]:
        setup = generators.Setup()
        recipe = GeneratorRecipe(steps=2, image_steps=1, lr=0.01, image_gan=0.1)
        training = setup.training(recipe, kind)
        for step in range(3):
            training.step(setup.blocks, text_of(), setup.images if step > 1 else None)
        return generators.values(training)

    usual, found = both(trained, traced, monkeypatch)
    assert usual.keys() == found.keys()
    assert all(torch.allclose(usual[k], found[k], atol=1e-3) for k in usual)


def test_off_is_nothing_at_all() -> None:
    function = torch.sin
    assert compiled(function) is function


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu", "needs a C\\+\\+ compiler on a CPU"), ("cuda", "needs triton on a GPU")],
)
def test_what_is_missing_is_said_at_once(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompilerError, match=message) as error:
        compiling.use(True, device)
    assert "cluster.compile=false" in str(error.value)
    compiling.use(False, device)  # nothing is needed
