"""Adapter training, fused over concepts, on tiny networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.targets.adapter_training import (
    ConceptData,
    Trained,
    batch_order,
    pad_tokens,
    to_uint8,
    to_unit,
    train_adapters,
    translate_all,
)
from modeling.targets.discriminator import adversarial_loss, discriminator_loss
from modeling.targets.lora import WAYS, Adapter, stack
from modeling.targets.recipe import Recipe
from tests.modeling.targets.tiny_training import (
    distance,
    make_concept,
    make_discriminator,
    make_translator,
)
from tests.rounding import in_float64

L1_ONLY = Recipe(steps=5, batch=4, lr=0.02, lr_final=0.02, gan_weight=0.0)
GAN = replace(L1_ONLY, gan_weight=1.0)
SAME = 1e-7
"""Two float64 trainings of the same maths end closer: where the gradient is 0 but for its rounding,
about 1e-15, Adam divides it by its eps, 1e-8, and moves the weight by that share of lr. In float32
the rounding is as large as the eps, and such a weight goes either way."""
RECIPES = pytest.mark.parametrize("recipe", [L1_ONLY, GAN], ids=["L1", "GAN"])


def train(
    concepts: list[ConceptData],
    recipe: Recipe,
    *,
    dropout: float = 0.0,
    starts: list[Adapter] | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Trained]:
    translator = make_translator(dropout)
    return train_adapters(
        translator,
        concepts,
        starts or [translator.zero_adapter() for _ in concepts],
        recipe,
        make_discriminator() if recipe.gan_weight else None,
        seed,
        **options,
    )


def adapter_of(trained: Trained) -> Adapter:
    assert trained.adapter is not None, trained.error
    return trained.adapter


# ---- one adapter ----------------------------------------------------------------------------


@RECIPES
def test_every_weight_moves_and_the_loss_falls(recipe: Recipe) -> None:
    recipe = replace(recipe, steps=60, batch=8)  # every step sees all images
    translator = make_translator()
    before = {k: v.clone() for k, v in translator.network.state_dict().items()}
    start = translator.zero_adapter()
    discriminator = make_discriminator()
    judged = {k: v.clone() for k, v in discriminator.state_dict().items()}
    critic = discriminator if recipe.gan_weight else None
    (trained,) = train_adapters(translator, [make_concept(0)], [start], recipe, critic, 0)
    adapter = adapter_of(trained)
    assert len(trained.losses) == 60
    assert trained.losses[-1] < 0.6 * trained.losses[0]
    assert trained.seconds > 0
    for key, value in adapter.items():
        assert not torch.equal(value, start[key]), key
        assert not value.requires_grad
    assert distance(start, translator.zero_adapter()) == 0
    assert distance(before, translator.network.state_dict()) == 0  # the base stays
    assert distance(judged, discriminator.state_dict()) == 0
    made = translate_all(
        translator, stack([adapter]), make_concept(0).source, [make_concept(0).tokens]
    )
    l1 = (to_unit(made[0]) - to_unit(make_concept(0).edited)).abs().mean().item()
    assert l1 < 0.6 * trained.losses[0]


@pytest.mark.parametrize("gan_weight", [0.0, 20.0])
@in_float64()
def test_against_a_loop_written_out(gan_weight: float) -> None:
    """Eq. (4) and the kept average, by plain Adam on one adapter and one discriminator."""
    concept, translator, critic = make_concept(0), make_translator(), make_discriminator()
    recipe = replace(L1_ONLY, lr_final=0.001, warmup=2, ema=0.6, clip=5.0)
    recipe = replace(recipe, gan_weight=gan_weight, discriminator_lr=0.05)
    weights = {k: v.requires_grad_() for k, v in translator.zero_adapter().items()}
    average = {k: v.detach().clone() for k, v in weights.items()}
    optimiser = torch.optim.Adam(weights.values(), lr=1.0, betas=(0.5, 0.999))
    judging = torch.optim.Adam(critic.parameters(), lr=0.05, betas=(0.5, 0.999))
    mask = torch.ones(3, dtype=torch.bool)
    norms = []
    for step, index in enumerate(batch_order(8, 5, 4, seed=3)):
        x, y = to_unit(concept.source[index]), to_unit(concept.edited[index])
        fake = translator(weights, x, concept.tokens, mask)
        loss = 100 * (fake - y).abs().mean()
        if gan_weight:
            judging.zero_grad()
            discriminator_loss(critic(x, y), critic(x, fake.detach())).backward()
            judging.step()
            loss = loss + gan_weight * adversarial_loss(critic(x, fake))
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), 5.0).item())
        optimiser.param_groups[0]["lr"] = recipe.rate(step)
        optimiser.step()
        decay = min(0.6, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in weights.items():
                average[k].mul_(decay).add_(v, alpha=1 - decay)
    assert max(norms) > 5
    (trained,) = train([concept], recipe, seed=3)
    assert distance(adapter_of(trained), average) < SAME
    assert distance(adapter_of(trained), {k: v.detach() for k, v in weights.items()}) > 1e-3


def test_ema_zero_keeps_the_last_weights() -> None:
    """The last step moves Adam's way by about one learning rate, nothing is averaged."""
    seen: list[Adapter] = []
    recipe = replace(L1_ONLY, steps=1, lr=0.5, lr_final=0.5)
    (trained,) = train(
        [make_concept(0)],
        recipe,
        on_step=lambda _, a: seen.append({k: v[0].clone() for k, v in a.items()}),
    )
    moved = {k: (v - seen[0][k]).abs().max().item() for k, v in adapter_of(trained).items()}
    assert max(moved.values()) == pytest.approx(0.5, rel=1e-3)
    (averaged,) = train([make_concept(0)], replace(recipe, ema=0.99))
    assert distance(adapter_of(averaged), seen[0]) == pytest.approx(0.9 * 0.5, rel=1e-3)


def test_kept_steps_are_what_shorter_trainings_end_with() -> None:
    recipe = replace(GAN, ema=0.8)
    (whole,) = train([make_concept(0)], recipe, keep=[2, 5])
    (short,) = train([make_concept(0)], replace(recipe, steps=2))
    assert sorted(whole.checkpoints) == [2, 5]
    assert distance(whole.checkpoints[2], adapter_of(short)) == 0
    assert distance(whole.checkpoints[5], adapter_of(whole)) == 0
    whole.checkpoints[5]["base_model.model.head.lora_B.weight"].zero_()
    assert adapter_of(whole)["base_model.model.head.lora_B.weight"].abs().max() > 0


def test_no_steps_give_the_start_back() -> None:
    start = train([make_concept(0)], L1_ONLY)[0].adapter
    assert start is not None
    (trained,) = train([make_concept(1)], replace(GAN, steps=0), starts=[start])
    assert distance(adapter_of(trained), start) == 0 and trained.losses == []


@in_float64()
def test_a_start_is_gone_on_from() -> None:
    """A fine-tune from a trained adapter begins where that ended."""
    concept = make_concept(0)
    (first,) = train([concept], replace(L1_ONLY, steps=20, batch=8))
    (tuned,) = train([concept], replace(L1_ONLY, batch=8), starts=[adapter_of(first)])
    assert first.losses[-1] < 0.7 * first.losses[0]
    with torch.no_grad():
        mask = torch.ones(len(concept.tokens), dtype=torch.bool)
        made = make_translator()(adapter_of(first), to_unit(concept.source), concept.tokens, mask)
    end = (made - to_unit(concept.edited)).abs().mean()
    assert tuned.losses[0] == pytest.approx(end.item(), rel=SAME)


# ---- several at once ------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "recipe",
    [L1_ONLY, GAN, replace(GAN, clip=1.0, ema=0.9, warmup=2, lr_final=0.0)],
    ids=["L1", "GAN", "GAN, clip, average"],
)
@in_float64()
def test_fused_concepts_equal_each_alone(recipe: Recipe, dropout: float) -> None:
    concepts = [make_concept(0, length=3), make_concept(1, length=5), make_concept(2, length=1)]
    fused = train(concepts, recipe, dropout=dropout)
    for concept, trained in zip(concepts, fused, strict=True):
        (alone,) = train([concept], recipe, dropout=dropout)
        assert trained.concept_id == concept.concept_id
        assert trained.losses == pytest.approx(alone.losses, rel=SAME)
        assert distance(adapter_of(trained), adapter_of(alone)) < SAME
    assert distance(adapter_of(fused[0]), adapter_of(fused[1])) > recipe.lr


@RECIPES
@in_float64()
def test_all_ways_of_several_concepts_end_alike(recipe: Recipe) -> None:
    """Without dropout: its draw goes by the order in memory, which differs between the ways."""
    concepts = [make_concept(i, length=1 + i) for i in range(3)]
    by_default = train(concepts, recipe)
    for way in WAYS:
        for usual, made in zip(by_default, train(concepts, recipe, way=way), strict=True):
            assert made.losses == pytest.approx(usual.losses, rel=SAME)
            assert distance(adapter_of(made), adapter_of(usual)) < SAME


@RECIPES
@pytest.mark.parametrize("place", ["tokens", "start"])
@in_float64()
def test_one_bad_concept_does_not_touch_the_others(recipe: Recipe, place: str) -> None:
    concepts = [make_concept(i) for i in range(3)]
    starts = [make_translator().zero_adapter() for _ in concepts]
    good = train([concepts[0], concepts[2]], recipe)
    if place == "tokens":
        concepts[1].tokens[0, 0] = float("nan")
    else:
        starts[1]["base_model.model.up.norm.bias"][0] = float("inf")
    results = train(concepts, recipe, starts=starts)
    assert results[1].adapter is None
    assert results[1].error == "loss became non-finite at step 1 of 5"
    for alone, trained in zip(good, (results[0], results[2]), strict=True):
        assert trained.error == ""
        assert distance(adapter_of(trained), adapter_of(alone)) < SAME


def test_weights_that_overflow_in_the_last_step_are_found() -> None:
    (trained,) = train([make_concept(0)], replace(L1_ONLY, steps=1, lr=math.inf, lr_final=0.0))
    assert trained.adapter is None and trained.error == "weights became non-finite"


@RECIPES
def test_equal_seeds_equal_results(recipe: Recipe) -> None:
    concepts = [make_concept(0), make_concept(1)]

    def result(noise: int, seed: int) -> Trained:
        torch.manual_seed(noise)  # the caller's random state must not matter
        return train(concepts, recipe, dropout=0.3, seed=seed)[1]

    first, again, other = result(1, 0), result(2, 0), result(1, 7)
    assert distance(adapter_of(first), adapter_of(again)) == 0
    assert first.losses == again.losses
    assert distance(adapter_of(first), adapter_of(other)) > 0.1 * recipe.lr


def test_the_callers_random_state_is_left_alone() -> None:
    translator = make_translator(0.3)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    start = [translator.zero_adapter()]
    train_adapters(translator, [make_concept(0)], start, L1_ONLY, None, 0)
    assert torch.equal(torch.rand(3), expected)


def test_scoring_on_the_way_changes_nothing_and_sees_no_dropout() -> None:
    concept = make_concept(0)
    translator = make_translator(0.3)
    start = translator.zero_adapter()
    steps, seen = [], []

    def score(step: int, adapters: Adapter) -> None:
        assert not translator.network.training
        torch.rand(5)
        made = [
            translate_all(translator, adapters, concept.source, [concept.tokens]) for _ in range(2)
        ]
        assert torch.equal(*made)
        steps.append(step)
        seen.append({k: v[0].clone() for k, v in adapters.items()})

    (scored,) = train_adapters(translator, [concept], [start], L1_ONLY, None, 0, on_step=score)
    (plain,) = train_adapters(translator, [concept], [start], L1_ONLY, None, 0)
    assert steps == list(range(6))
    assert distance(seen[0], start) == 0
    assert distance(seen[-1], adapter_of(scored)) == 0
    assert distance(adapter_of(plain), adapter_of(scored)) == 0


def test_an_exception_leaves_the_translator_in_eval_mode() -> None:
    translator = make_translator(0.3)
    concept = make_concept(0)
    concept.tokens = torch.zeros(3, 7)  # not the translator's text_dim
    with pytest.raises(RuntimeError):
        train_adapters(translator, [concept], [translator.zero_adapter()], L1_ONLY, None, 0)
    assert not translator.network.training


def test_bad_calls() -> None:
    translator = make_translator()
    one, zero = make_concept(0), translator.zero_adapter()
    with pytest.raises(ValueError, match="needs a discriminator"):
        train_adapters(translator, [one], [zero], GAN, None, 0)
    with pytest.raises(ValueError, match="1 concepts with 2 starts"):
        train_adapters(translator, [one], [zero, zero], L1_ONLY, None, 0)
    with pytest.raises(ValueError, match="0 concepts"):
        train_adapters(translator, [], [], L1_ONLY, None, 0)
    with pytest.raises(ValueError, match=r"equally many pairs, got \[6, 8\]"):
        train_adapters(translator, [one, make_concept(1, 6)], [zero, zero], L1_ONLY, None, 0)
    with pytest.raises(ValueError, match="from 0 images"):
        train_adapters(translator, [make_concept(0, 0)], [zero], L1_ONLY, None, 0)


# ---- the parts ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    images=st.integers(1, 30),
    steps=st.integers(0, 20),
    batch=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_batch_order_is_whole_epochs(images: int, steps: int, batch: int, seed: int) -> None:
    order = batch_order(images, steps, batch, seed)
    assert order.shape == (steps, batch)
    flat = order.flatten().tolist()
    for start in range(0, len(flat), images):
        epoch = flat[start : start + images]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(images))
    assert torch.equal(order, batch_order(images, steps, batch, seed))
    # a longer training begins as a shorter one
    assert torch.equal(order, batch_order(images, steps + 3, batch, seed)[:steps])


def test_batch_order_shuffles_by_seed() -> None:
    assert not torch.equal(batch_order(50, 2, 25, 0), batch_order(50, 2, 25, 1))
    epochs = batch_order(50, 2, 50, 0)
    assert not torch.equal(epochs[0], epochs[1])
    for call in ((0, 1, 1), (4, 1, 0), (4, -1, 2)):
        with pytest.raises(ValueError, match="cannot draw"):
            batch_order(*call, seed=0)


def test_pictures_survive_the_unit_range() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(every)
    assert unit.dtype == torch.float32 and unit.aminmax() == (-1, 1)
    assert torch.equal(to_uint8(unit), every)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    floats = torch.tensor([0.0, 255.0])
    to_unit(floats)
    assert floats.tolist() == [0, 255]  # the argument is left alone


def test_padding_tokens() -> None:
    parts = [torch.randn(n, 6) for n in (3, 1, 4)]
    tokens, mask = pad_tokens(parts)
    assert tokens.shape == (3, 4, 6) and mask.sum(1).tolist() == [3, 1, 4]
    for i, part in enumerate(parts):
        assert torch.equal(tokens[i][mask[i]], part)
        assert (tokens[i][~mask[i]] == 0).all()


def test_batched_translation_equals_one_image_and_one_adapter_at_a_time() -> None:
    translator = make_translator(dropout=0.3)
    concepts = [make_concept(0, length=2), make_concept(1, length=5)]
    adapters = [adapter_of(t) for t in train(concepts, L1_ONLY)]
    tokens = [c.tokens for c in concepts]
    source = concepts[0].source
    made = translate_all(translator, stack(adapters), source, tokens, batch=3)
    assert made.shape == (2, 8, 3, 8, 8) and made.dtype == torch.uint8
    assert not made.requires_grad
    whole = translate_all(translator, stack(adapters), source, tokens)
    # rounding may go either way where the sums are ordered differently
    assert (made.int() - whole.int()).abs().max() <= 1
    for i, adapter in enumerate(adapters):
        for m in range(8):
            one = translate_all(translator, stack([adapter]), source[m : m + 1], [tokens[i]])
            assert (one[0, 0].int() - made[i, m].int()).abs().max() <= 1
    assert (made[0].int() - made[1].int()).abs().max() > 10
