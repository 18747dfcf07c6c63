"""Training of the base translator on tiny networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modeling.targets.adapter_training import pad_tokens, to_unit
from modeling.targets.base_training import BaseTraining
from modeling.targets.recipe import Recipe
from modeling.targets.shapes import TranslatorConfig
from modeling.targets.translator import Translator
from tests.modeling.targets.tiny_training import TINY, distance, make_concept, make_discriminator

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def make_base_training(recipe: Recipe) -> BaseTraining:
    torch.manual_seed(0)
    return BaseTraining(Translator(TranslatorConfig(**TINY)), make_discriminator(), recipe)


def base_batch(seed: int = 0) -> Batch:
    concepts = [make_concept(3 * seed + i, images=2, length=2 + i) for i in range(3)]
    tokens, mask = pad_tokens([c.tokens for c in concepts for _ in range(2)])
    source = torch.cat([to_unit(c.source) for c in concepts])
    return source, torch.cat([to_unit(c.edited) for c in concepts]), tokens, mask


def everything(training: BaseTraining) -> dict[str, Tensor]:
    parts = {"t": training.translator, "d": training.discriminator}
    return {f"{n}.{k}": v.clone() for n, m in parts.items() for k, v in m.state_dict().items()}


BASE = Recipe(steps=30, batch=6, lr=0.01, warmup=3)


@pytest.mark.parametrize("gan_weight", [0.0, 1.0])
def test_base_training_learns_its_batch(gan_weight: float) -> None:
    training = make_base_training(replace(BASE, gan_weight=gan_weight))
    before = everything(training)
    losses = [training.step(*base_batch()) for _ in range(30)]
    assert training.done == 30
    assert losses[-1]["l1"] < 0.6 * losses[0]["l1"]
    assert (losses[-1]["discriminator"] > 0) == bool(gan_weight)
    for key, value in everything(training).items():
        assert torch.equal(value, before[key]) == (key.startswith("d.") and not gan_weight), key
    assert all(p.requires_grad for p in training.discriminator.parameters())


@pytest.mark.parametrize("gan_weight", [0.0, 1.0])
def test_base_training_resumes_as_if_never_stopped(gan_weight: float) -> None:
    recipe = replace(BASE, steps=6, gan_weight=gan_weight)
    whole, first = make_base_training(recipe), make_base_training(recipe)
    for step in range(6):
        whole.step(*base_batch(step))
    for step in range(3):
        first.step(*base_batch(step))
    saved = first.state()
    rest = make_base_training(recipe)
    with torch.no_grad():
        for p in (*rest.translator.parameters(), *rest.discriminator.parameters()):
            p.add_(1)  # the state must replace everything
    rest.load_state(saved)
    assert rest.done == 3
    assert rest.state() == saved
    for step in range(3, 6):
        rest.step(*base_batch(step))
    assert distance(everything(whole), everything(rest)) == 0
    assert whole.state() == rest.state()


def test_base_training_refuses_the_state_of_another_network() -> None:
    training = make_base_training(BASE)
    wide = Translator(TranslatorConfig(**(TINY | {"width": 16})))
    other = BaseTraining(wide, make_discriminator(), BASE)
    with pytest.raises(RuntimeError, match="size mismatch"):
        training.load_state(other.state())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_base_training_stops_at_a_non_finite_loss(which: int) -> None:
    training = make_base_training(BASE)
    training.step(*base_batch())
    parameters = copy.deepcopy(dict(training.translator.named_parameters()))
    bad = [t.clone() for t in base_batch()]
    bad[which].view(-1)[0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 2"):
        training.step(*bad)
    assert training.done == 1
    for key, value in training.translator.named_parameters():
        assert torch.equal(value, parameters[key]), key
