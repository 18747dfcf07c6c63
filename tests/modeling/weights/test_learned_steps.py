"""Learned steps: what a refiner is told, that it learns, that it resumes, what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.targets.adapter_training import to_unit
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss
from modeling.targets.shapes import DiscriminatorConfig
from modeling.weights.gradient_basis import GradientSums
from modeling.weights.image_loss import ImageBatch, ImageLoss
from modeling.weights.interface import GeneratorError
from modeling.weights.learned_steps import RefinerTraining, learned_steps
from modeling.weights.recipe import RefinerRecipe
from modeling.weights.refiner import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Refiner,
    RefinerConfig,
    from_files,
    to_files,
)
from tests.modeling.weights.small_base import CONCEPTS, TEXT_DIM, SmallBase, text_of

RECIPE = RefinerRecipe(steps=6, lr=3e-3, iterations=2, scored=1)


class Setup(SmallBase):
    """And a loss, refiners and their trainings for it; four pairs a concept."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = ImageLoss(self.translator, self.layout, self.normalisation)
        self.start = self.normalisation.apply(self.blocks)
        g = torch.Generator().manual_seed(5)
        source = torch.randint(0, 256, (CONCEPTS, 4, 3, 8, 8), generator=g, dtype=torch.uint8)
        self.images = ImageBatch(source, 255 - source, text_of())
        sums = GradientSums.empty(self.layout)
        sums.add(self.loss.gradient(self.start, source, 255 - source, text_of())[0])
        self.basis = sums.finish()

    def refiner(self, **changes: Any) -> Refiner:
        torch.manual_seed(3)
        shape = {"width": 16, "depth": 1, "heads": 2, "iterations": 2} | changes
        config = RefinerConfig(self.layout.block_size, self.layout.n_blocks, TEXT_DIM, **shape)
        return Refiner(config, self.basis)

    def training(self, recipe: RefinerRecipe = RECIPE) -> RefinerTraining:
        return RefinerTraining(self.refiner(), self.loss, recipe, 0)

    def steps(self, refiner: Refiner, steps: int, pairs: int = 4, seed: int = 0) -> list[Tensor]:
        images = self.images
        made = learned_steps(
            refiner,
            self.loss,
            self.start,
            images.source,
            images.edited,
            images.text,
            steps,
            pairs,
            seed,
        )
        return [blocks for blocks, _ in made]


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def awake(refiner: Refiner) -> Refiner:
    with torch.no_grad():
        refiner.heads_out.weight.normal_(0, 0.1)
    return refiner


def test_the_gradient_is_that_of_each_concept_alone(setup: Setup) -> None:
    images = setup.images
    gradient, loss = setup.loss.gradient(setup.start, images.source, images.edited, images.text)
    for i in range(CONCEPTS):
        text = type(images.text)(*(v[i : i + 1] for v in images.text))
        own, at = setup.loss.gradient(
            setup.start[i : i + 1], images.source[i : i + 1], images.edited[i : i + 1], text
        )
        torch.testing.assert_close(own[0], gradient[i], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(at[0], loss[i])
    assert not gradient[:, ~setup.layout.mask].any()


def test_the_gradient_is_the_losss(setup: Setup) -> None:
    images, step = setup.images, 1e-2
    gradient, loss = setup.loss.gradient(setup.start, images.source, images.edited, images.text)
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    with torch.no_grad():
        up, down = (
            setup.loss(setup.start + s * direction, images.source, images.edited, images.text)
            for s in (step, -step)
        )
    slope = gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close((up - down) / (2 * step), slope, rtol=0.1, atol=1e-4)
    assert not loss.requires_grad


def test_the_loss_of_eq_4_adds_the_verdict_of_a_discriminator(setup: Setup) -> None:
    torch.manual_seed(4)
    critic = PatchDiscriminator(DiscriminatorConfig(width=4, layers=1))
    images = setup.images
    with torch.no_grad():
        args = (setup.start, images.source, images.edited, images.text)
        plain = setup.loss(*args)
        both = replace(setup.loss, critic=critic, critic_weight=0.25)(*args)
        adapters = setup.layout.from_blocks(setup.normalisation.invert(setup.start))
        x = to_unit(images.source)
        fake = setup.translator.translate(adapters, x, images.text.tokens, images.text.mask)
        for i in range(CONCEPTS):
            verdict = adversarial_loss(critic(x[i], fake[i]))
            torch.testing.assert_close(both[i] - plain[i], 0.25 * verdict, rtol=1e-4, atol=1e-5)


def test_a_fresh_refiner_steps_against_the_gradient_as_adam_does(setup: Setup) -> None:
    images = setup.images
    args = (images.source, images.edited, images.text)
    gradient, before = setup.loss.gradient(setup.start, *args)
    (blocks,) = setup.steps(setup.refiner(), 1)
    moved = setup.basis.rotate(blocks - setup.start)
    along = setup.basis.rotate(gradient)
    size = gradient.square().mean(-1, keepdim=True).sqrt()
    clear = along.abs() > size
    assert clear.sum() > 100
    # padding is left alone, which turns some steps a little
    assert (moved.sign() == -along.sign())[clear].float().mean() > 0.95
    assert 0.05 < moved.abs()[clear].mean() <= 0.1
    after = setup.loss.gradient(blocks, *args)[1]
    assert (after < before).all()


def test_padding_stays_zero_and_steps_go_on_beyond_those_trained(setup: Setup) -> None:
    made = setup.steps(awake(setup.refiner()), 5)
    assert len(made) == 5
    for before, after in zip([setup.start, *made], made, strict=False):
        assert not torch.equal(before, after)
        assert not after[:, ~setup.layout.mask].any()


@pytest.mark.parametrize("pairs", [1, 3, 4, 100])
def test_any_number_of_pairs(setup: Setup, pairs: int) -> None:
    first = setup.steps(awake(setup.refiner()), 2, pairs)
    again = setup.steps(awake(setup.refiner()), 2, pairs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_one_pair_alone_decides_if_there_is_no_other(setup: Setup) -> None:
    images = setup.images
    made = [
        list(
            learned_steps(
                awake(setup.refiner()),
                setup.loss,
                setup.start,
                images.source[:, :1],
                images.edited[:, :1],
                images.text,
                2,
                pairs,
                seed,
            )
        )[-1][0]
        for pairs, seed in ((1, 0), (8, 1))
    ]
    assert torch.equal(*made)


def test_training_lowers_the_loss_after_every_learned_step(setup: Setup) -> None:
    recipe = replace(RECIPE, steps=80, lr=0.01, ema=0.9, from_zero=0.0, from_noise=0.0)
    training = setup.training(recipe)
    start = {k: v.clone() for k, v in training.model.state_dict().items()}
    losses = [training.step(setup.start, setup.images) for _ in range(80)]
    moved = [k for k, v in training.model.state_dict().items() if not torch.equal(v, start[k])]
    assert {"heads_out.weight", "lengths", "project_in.weight"} <= set(moved)
    late = {k: sum(x[k] for x in losses[-10:]) / 10 for k in losses[0]}
    assert late["after 2"] < late["after 1"] < 0.9 * late["start"]


def test_resumed_training_equals_an_uninterrupted_one(setup: Setup) -> None:
    whole, first = setup.training(), setup.training()
    for _ in range(RECIPE.steps):
        whole.step(setup.start, setup.images)
    for _ in range(3):
        first.step(setup.start, setup.images)
    second = setup.training()
    second.load_state(first.state())
    assert second.done == 3
    for _ in range(3):
        second.step(setup.start, setup.images)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    for key, value in whole.ema.average.items():
        assert torch.equal(value, second.ema.average[key]), key


def test_starts_are_predictions_the_zero_adapter_and_noise(setup: Setup) -> None:
    recipe = replace(RECIPE, from_zero=0.25, from_noise=0.25)
    training = setup.training(recipe)
    many = setup.start[:1].expand(400, -1, -1)
    starts = training._starts(many, torch.Generator().manual_seed(0))
    zero = (starts == training.zero).flatten(1).all(1)
    same = (starts == many).flatten(1).all(1)
    assert 60 < zero.sum() < 140
    assert 150 < same.sum() < 250
    assert not starts[:, ~setup.layout.mask].any()


def test_a_loss_that_is_not_finite_stops_training(setup: Setup) -> None:
    with pytest.raises(FloatingPointError, match="refiner: loss is nan at step 1"):
        setup.training().step(setup.start * float("nan"), setup.images)


def test_too_few_pairs_to_score_on_is_an_error(setup: Setup) -> None:
    with pytest.raises(ValueError, match=r"more than refine\.scored=4 needed"):
        setup.training(replace(RECIPE, scored=4)).step(setup.start, setup.images)


def test_files_and_back(setup: Setup) -> None:
    model = awake(setup.refiner())
    files = to_files(model.state_dict(), model.config)
    back = from_files(files, setup.basis)
    assert back.config == model.config
    assert not back.training
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    broken: list[dict[str, bytes]] = [
        {CONFIG_FILE: files[CONFIG_FILE]},
        files | {WEIGHTS_FILE: files[WEIGHTS_FILE][:-7]},
        files | {CONFIG_FILE: b"{"},
        files | {CONFIG_FILE: json.dumps({"config": {"width": 16}}).encode()},
    ]
    for case in broken:
        with pytest.raises(GeneratorError, match="refiner"):
            from_files(case, setup.basis)


def test_configs_that_cannot_be(setup: Setup) -> None:
    with pytest.raises(GeneratorError, match="heads"):
        setup.refiner(width=15)
    with pytest.raises(GeneratorError, match="iterations"):
        setup.refiner(iterations=0)
    with pytest.raises(GeneratorError, match="a basis of others"):
        config = RefinerConfig(setup.layout.block_size, 1, TEXT_DIM)
        Refiner(config, setup.basis)
    with pytest.raises(GeneratorError, match="this refiner has"):
        setup.refiner()(setup.start[:, 1:], setup.start[:, 1:], torch.ones(4), 0, 1, *text_of())
