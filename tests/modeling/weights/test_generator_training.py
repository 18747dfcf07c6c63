"""Weight-generator training: Eq. (1), then the image loss through the frozen translator."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.targets.adapter_training import to_unit
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss
from modeling.targets.lora import AdaptedTranslator, Adapter
from modeling.targets.shapes import DiscriminatorConfig
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.interface import GeneratorConfig, GeneratorError
from modeling.weights.recipe import GeneratorRecipe
from modeling.weights.weight_generator import build, predict_blocks
from tests.modeling.weights.small_base import BLOCK, CONCEPTS, TEXT_DIM, SmallBase, text_of
from tests.rounding import in_float64, in_its_precision

RECIPE = GeneratorRecipe(steps=6, lr=3e-3)
KINDS = pytest.mark.parametrize("kind", ["transformer", "unet"])


class Setup(SmallBase):
    """And trainings of weight generators for it."""

    def training(
        self, recipe: GeneratorRecipe, kind: str = "transformer", seed: int = 0, **changes: Any
    ) -> GeneratorTraining:
        torch.manual_seed(3)
        options: dict[str, Any] = {
            "kind": kind,
            "block_size": BLOCK,
            "n_blocks": self.layout.n_blocks,
            "text_dim": TEXT_DIM,
            "width": 16,
            "depth": 1,
            "heads": 2,
            "channels": (4, 8),
        }
        model = build(GeneratorConfig(**(options | changes)))
        translator = self.translator if recipe.image_steps else None
        critic = None
        if recipe.image_gan:
            torch.manual_seed(4)
            critic = PatchDiscriminator(DiscriminatorConfig(width=4, layers=1))
        return GeneratorTraining(
            model,
            self.layout,
            self.normalisation,
            recipe,
            seed,
            translator,
            discriminator=critic,
        )


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def values(training: GeneratorTraining) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in training.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_weights_steps_learn_the_map_from_text_to_blocks(setup: Setup) -> None:
    # near pure noise, so that the text, not the noisy input, must say which blocks are meant
    training = setup.training(replace(RECIPE, steps=120, lr=0.01, t_min=990, ema=0.9))
    text = text_of()
    losses = [training.step(setup.blocks, text)["denoising"] for _ in range(120)]
    assert losses[0] == pytest.approx(1, abs=0.1)  # normalised blocks, guessed as zero
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert training.done == 120
    training.ema.copy_to(training.model)
    found = predict_blocks(training.model, training.schedule, text, 999, seed=0)
    truth = setup.normalisation.apply(setup.blocks)
    nearest = (found[:, None] - truth[None]).square().mean((2, 3)).argmin(1)
    assert nearest.tolist() == list(range(CONCEPTS))


def test_weights_steps_teach_the_unet_to_denoise(setup: Setup) -> None:
    """On a few blocks per step, and little noise, which a UNet soon learns to take off."""
    recipe = replace(RECIPE, steps=60, lr=0.02, blocks_per_concept=22)
    training = setup.training(recipe, "unet", steps=100)
    losses = [training.step(setup.blocks, text_of())["denoising"] for _ in range(60)]
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.parametrize(("chosen", "seen"), [(0, "all"), (5, "some")])
def test_unet_trains_on_some_blocks_of_a_concept(setup: Setup, chosen: int, seen: str) -> None:
    n = setup.layout.n_blocks
    training = setup.training(replace(RECIPE, blocks_per_concept=chosen), "unet")
    calls: list[list[int]] = []
    training.model.register_forward_pre_hook(lambda _, args: calls.append(args[2].tolist()))
    shapes: list[torch.Size] = []
    training.model.register_forward_hook(lambda *a: shapes.append(a[2].shape))
    for _ in range(4):
        training.step(setup.blocks, text_of())
    count = n if seen == "all" else chosen
    assert shapes == [torch.Size((CONCEPTS, count, BLOCK))] * 4
    assert all(len(set(c)) == count and set(c) <= set(range(n)) for c in calls)
    if seen == "some":
        assert len({tuple(c) for c in calls}) == 4  # others every time


def test_unet_on_chosen_blocks_is_compared_with_those_blocks(setup: Setup) -> None:
    """Blocks and their targets stay in step: a model that copies its input is right at t = 0."""
    training = setup.training(replace(RECIPE, blocks_per_concept=7, t_min=0), "unet", steps=1)

    class Copy(type(training.model)):
        def forward(self, noisy: Tensor, *rest: Any) -> Tensor:
            return noisy + 0 * sum(p.sum() for p in self.parameters())

    training.model.__class__ = Copy
    assert training.step(setup.blocks, text_of())["denoising"] < 1e-3


def test_a_joint_model_refuses_some_of_the_blocks(setup: Setup) -> None:
    training = setup.training(replace(RECIPE, blocks_per_concept=5))
    with pytest.raises(GeneratorError, match="all"):
        training.step(setup.blocks, text_of())


@KINDS
def test_image_steps_lower_the_image_loss_and_move_the_generator_alone(
    setup: Setup, kind: str
) -> None:
    recipe = replace(RECIPE, steps=0, image_steps=25, image_lr=0.03)
    training = setup.training(recipe, kind, channels=(8, 8))
    before = values(training)
    frozen = copy.deepcopy(setup.translator.network.state_dict())
    text = text_of()

    def fixed_loss() -> float:
        """On one fixed noise."""
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            made = training.pictures(setup.images, rng)
            return (made - to_unit(setup.images.edited)).abs().mean().item()

    start = fixed_loss()
    losses = [training.step(setup.blocks, text, setup.images) for _ in range(25)]
    assert set(losses[0]) == {"denoising", "image"}
    assert fixed_loss() < 0.9 * start
    assert losses[-1]["image"] < 0.9 * losses[0]["image"]
    assert all(not torch.equal(v, before[k]) for k, v in values(training).items() if "heads" in k)
    assert not same(values(training), before)
    assert same(dict(setup.translator.network.state_dict()), dict(frozen))
    assert all(p.grad is None for p in setup.translator.network.parameters())
    assert not setup.translator.network.training


def test_a_sequential_unet_is_shown_the_true_block_before(setup: Setup) -> None:
    recipe = replace(RECIPE, blocks_per_concept=5, image_steps=1, steps=1)
    training = setup.training(recipe, "unet", block_conditioning="previous")
    seen = []
    training.model.register_forward_pre_hook(lambda _, args: seen.append(args))
    training.step(setup.blocks, text_of())
    ((_, _, chosen, *_, previous),) = seen
    x0 = setup.normalisation.apply(setup.blocks)
    for k, n in enumerate(chosen.tolist()):
        expected = x0[:, n - 1] if n else torch.zeros_like(x0[:, 0])
        torch.testing.assert_close(previous[:, k], expected)
    before = values(training)
    assert set(training.step(setup.blocks, text_of(), setup.images)) == {"denoising", "image"}
    assert not same(values(training), before)


def test_without_its_weight_the_denoising_loss_is_not_computed(setup: Setup) -> None:
    recipe = replace(RECIPE, steps=1, image_steps=2, image_denoising=0.0)
    training = setup.training(recipe)
    calls = []
    training.model.register_forward_hook(lambda *_: calls.append(training.done))
    losses = [training.step(setup.blocks, text_of(), setup.images) for _ in range(3)]
    assert [set(found) for found in losses] == [{"denoising"}, {"image"}, {"image"}]
    assert calls == [0, 1, 2]


@in_float64()
def test_image_loss_is_of_the_predicted_adapters_pictures() -> None:
    setup = Setup()
    in_its_precision(setup.translator.network)
    training = setup.training(replace(RECIPE, image_steps=1, image_t=700))
    with torch.no_grad():
        for p in training.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    training.model.eval()
    text = text_of()
    with torch.no_grad():
        found = training.pictures(setup.images, torch.Generator().manual_seed(5))
    shape = (CONCEPTS, setup.layout.n_blocks, BLOCK)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    blocks = predict_blocks(training.model, training.schedule, text, 700, noise=noise)
    for i in range(CONCEPTS):
        adapter = setup.layout.from_blocks(setup.normalisation.invert(blocks[i]))
        x = to_unit(setup.images.source[i])
        tokens = text.tokens[i][text.mask[i]]
        mask = torch.ones(len(tokens), dtype=torch.bool)
        with torch.no_grad():
            expected = setup.translator(adapter, x, tokens, mask)
        torch.testing.assert_close(found[i], expected)


def test_eq_4_as_the_image_loss_trains_a_discriminator_against_the_pictures(setup: Setup) -> None:
    recipe = replace(RECIPE, steps=0, image_steps=2, image_gan=0.1)
    training, plain = setup.training(recipe), setup.training(replace(recipe, image_gan=0.0))
    critic = training.critic
    assert critic is not None and plain.critic is None
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    losses = training.step(setup.blocks, text_of(), setup.images)
    assert set(losses) == {"denoising", "image", "discriminator"}
    assert losses["image"] == plain.step(setup.blocks, text_of(), setup.images)["image"]
    assert any(not torch.equal(v, before[k]) for k, v in critic.state_dict().items())
    assert not same(values(training), values(plain))  # the term reaches the weight generator
    assert all(p.requires_grad for p in critic.parameters())

    # with the discriminator alone (and held still), the pictures move towards its liking
    recipe = replace(recipe, image_steps=20, image_weight=0.0, image_gan=10.0, discriminator_lr=0.0)
    training = setup.training(recipe)

    def verdict() -> float:
        with torch.no_grad():
            made = training.pictures(setup.images, torch.Generator().manual_seed(0))
            source = to_unit(setup.images.source).flatten(0, 1)
            assert training.critic is not None
            return adversarial_loss(training.critic(source, made.flatten(0, 1))).item()

    start = verdict()
    for _ in range(20):
        training.step(setup.blocks, text_of(), setup.images)
    assert verdict() < start


def test_eq_4_needs_a_discriminator(setup: Setup) -> None:
    recipe = replace(RECIPE, image_steps=1, image_gan=0.1)
    model = setup.training(RECIPE).model
    with pytest.raises(ValueError, match="needs a discriminator"):
        GeneratorTraining(model, setup.layout, setup.normalisation, recipe, 0, setup.translator)


def test_text_noise_is_for_the_weight_generator_alone(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, steps=1, image_steps=1, text_noise=0.5)
    training, text = setup.training(recipe), text_of()
    read: list[Tensor] = []
    looked: list[Tensor] = []
    training.model.register_forward_pre_hook(lambda _, args: read.extend((args[3], args[5])))
    real = AdaptedTranslator.translate

    def spy(self: AdaptedTranslator, a: Adapter, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        looked.append(tokens)
        assert torch.equal(mask, text.mask)
        return real(self, a, x, tokens, mask)

    monkeypatch.setattr(AdaptedTranslator, "translate", spy)
    training.step(setup.blocks, text)
    training.step(setup.blocks, text, setup.images)
    assert len(looked) == 1 and torch.equal(looked[0], text.tokens)
    assert len(read) == 6  # one denoising call, then one more and the prediction
    for tokens, pooled in zip(read[::2], read[1::2], strict=True):
        for found, clean in ((tokens, text.tokens), (pooled, text.pooled)):
            noise = (found - clean).square().mean().sqrt() / clean.square().mean().sqrt()
            assert noise.item() == pytest.approx(0.5, rel=0.35)
    assert not torch.equal(read[0], read[2])  # fresh in each step
    assert not torch.equal(read[2], read[4])  # and for each loss


@KINDS
@pytest.mark.parametrize("image_gan", [0.0, 0.1])
def test_resumed_equals_uninterrupted_in_both_phases(
    setup: Setup, kind: str, image_gan: float
) -> None:
    recipe = replace(
        RECIPE,
        steps=3,
        image_steps=3,
        image_gan=image_gan,
        text_noise=0.1,
        blocks_per_concept=5 * (kind == "unet"),
    )

    def go_on(training: GeneratorTraining, count: int) -> None:
        for _ in range(count):
            on_images = training.done >= recipe.steps
            training.step(setup.blocks, text_of(), setup.images if on_images else None)

    whole = setup.training(recipe, kind, dropout=0.2)
    go_on(whole, 6)
    for stop in (2, 3, 4):  # before, at and after the change of phase
        first = setup.training(recipe, kind, dropout=0.2)
        go_on(first, stop)
        saved = first.state()
        rest = setup.training(recipe, kind, dropout=0.2)
        with torch.no_grad():
            for p in rest.model.parameters():
                p.add_(1)  # the state must replace everything
        rest.load_state(saved)
        assert rest.done == stop and rest.ema.updates == stop
        assert rest.state() == saved
        torch.manual_seed(stop)  # the caller's random state must not matter
        go_on(rest, 6 - stop)
        assert same(values(rest), values(whole))
        assert same(rest.ema.average, whole.ema.average)


def test_seed_and_rank_change_the_draws(setup: Setup) -> None:
    def losses(seed: int, rank: int) -> list[float]:
        training = setup.training(replace(RECIPE, steps=2), seed=seed, dropout=0.2)
        training.rank = rank
        return [training.step(setup.blocks, text_of())["denoising"] for _ in range(2)]

    assert losses(0, 0) == losses(0, 0)
    assert losses(0, 0)[1] != losses(1, 0)[1]
    assert losses(0, 0)[1] != losses(0, 1)[1]


@pytest.mark.parametrize("where", ["blocks", "text"])
def test_a_non_finite_loss_stops_before_the_weights_change(setup: Setup, where: str) -> None:
    training = setup.training(RECIPE)
    training.step(setup.blocks, text_of())
    before, average = values(training), dict(training.ema.average)
    average = {k: v.clone() for k, v in average.items()}
    blocks, text = setup.blocks.clone(), text_of()
    if where == "blocks":
        blocks[0, 0, 0] = float("nan")
    else:
        text.pooled[0, 0] = float("inf")
        text.tokens[0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 2"):
        training.step(blocks, text)
    assert training.done == 1
    assert same(values(training), before) and same(training.ema.average, average)


def test_missing_parts_are_named(setup: Setup) -> None:
    recipe = replace(RECIPE, steps=0, image_steps=1)
    with pytest.raises(ValueError, match="needs the frozen translator"):
        model = setup.training(RECIPE).model
        GeneratorTraining(model, setup.layout, setup.normalisation, recipe, 0)
    with pytest.raises(ValueError, match="give images"):
        setup.training(recipe).step(setup.blocks, text_of())


def test_rate_warms_up_and_decays_once_per_phase() -> None:
    recipe = GeneratorRecipe(steps=100, lr=1e-3, image_steps=40, image_lr=5e-4)
    rates = [recipe.rate(i) for i in range(recipe.total)]
    for phase, peak, warmup in ((rates[:100], 1e-3, 10), (rates[100:], 5e-4, 4)):
        assert phase[0] == pytest.approx(peak / warmup)
        assert max(phase) == pytest.approx(peak) and phase.index(max(phase)) == warmup - 1
        assert phase[warmup:] == sorted(phase[warmup:], reverse=True)
        assert 0 < phase[-1] < 0.02 * peak
