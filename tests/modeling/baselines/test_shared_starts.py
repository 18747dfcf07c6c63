"""Starts without a text: they train, keep their laws, and say when a loss is not finite."""

from __future__ import annotations

import pytest
import torch

from modeling.baselines.recipe import SharedStartSettings
from modeling.baselines.shared_starts import gradient_start, joint_adapter, reptile
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters
from modeling.targets.lora import Adapter
from modeling.targets.recipe import FineTuning, Recipe, as_published, finetune_recipe
from modeling.weights.image_loss import ImageBatch, ImageLoss
from tests.modeling.weights.small_base import SmallBase

ADAPT = FineTuning(steps=4, batch=3, lr=0.01, gan_weight=0)


@pytest.fixture(scope="module")
def base() -> SmallBase:
    return SmallBase()


def concepts(images: ImageBatch) -> list[ConceptData]:
    text = images.text
    return [
        ConceptData(str(i), images.source[i], images.edited[i], text.tokens[i][text.mask[i]])
        for i in range(len(images.source))
    ]


def mean_l1(base: SmallBase, adapter: Adapter) -> float:
    """Of one adapter over all concepts."""
    loss = ImageLoss(base.translator, base.layout, base.normalisation)
    blocks = base.normalisation.apply(base.layout.to_blocks(adapter))
    images = base.images
    every = blocks.expand(len(images.source), *blocks.shape)
    return float(loss(every, images.source, images.edited, images.text).mean())


def test_the_joint_adapter_serves_all_concepts_better_than_zero_lora(base: SmallBase) -> None:
    settings = SharedStartSettings(joint_steps=30, lr=0.03)
    zero = base.translator.zero_adapter()
    joint = joint_adapter(base.translator, lambda _: base.images, settings)
    base.translator.check(joint)
    assert mean_l1(base, joint) < 0.9 * mean_l1(base, zero)
    assert all(torch.equal(v, zero[k]) for k, v in base.translator.zero_adapter().items())


def test_a_joint_adapter_of_one_concept_is_that_concepts_training(base: SmallBase) -> None:
    """The same Adam at the same rates: what is joint is the mean over concepts alone."""
    steps = 6
    one = ImageBatch(
        base.images.source[:1],
        base.images.edited[:1],
        type(base.images.text)(*(v[:1] for v in base.images.text)),
    )
    joint = joint_adapter(
        base.translator, lambda _: one, SharedStartSettings(joint_steps=steps, lr=0.01)
    )
    whole = Recipe(
        steps, 3, 0.01, l1_weight=1, gan_weight=0
    )  # a batch holds all pairs, in any order
    (alone,) = train_adapters(
        base.translator, concepts(one), [base.translator.zero_adapter()], whole, None, 0
    )
    assert alone.adapter is not None
    # Adam divides by its own second moments: the order of summation is all that differs
    for key, value in alone.adapter.items():
        torch.testing.assert_close(joint[key], value, rtol=0, atol=1e-3 * 0.01 * steps)


def test_one_whole_step_of_reptile_is_the_mean_of_the_tuned_adapters(base: SmallBase) -> None:
    settings = SharedStartSettings(reptile_steps=1, inner_steps=3, rate=1.0)
    start = reptile(base.translator, lambda _: base.images, settings, ADAPT, None, 5)
    inner = Recipe(3, 3, 0.01, gan_weight=0, lr_final=0.01, clip=1e3)
    zero = [base.translator.zero_adapter()] * 4
    tuned = train_adapters(base.translator, concepts(base.images), zero, inner, None, 5)
    for key, value in start.items():
        ends = [t.adapter[key] for t in tuned if t.adapter is not None]
        assert len(ends) == 4
        torch.testing.assert_close(value, torch.stack(ends).mean(0), rtol=1e-6, atol=1e-6)


def test_a_few_steps_from_reptiles_start_end_below_those_from_zero_lora(base: SmallBase) -> None:
    settings = SharedStartSettings(reptile_steps=12, inner_steps=4)
    start = reptile(base.translator, lambda _: base.images, settings, ADAPT, None, 0)
    base.translator.check(start)
    recipe = finetune_recipe(as_published(ADAPT))

    def ends(at: Adapter) -> list[float]:
        tuned = train_adapters(base.translator, concepts(base.images), [at] * 4, recipe, None, 1)
        return [t.losses[-1] for t in tuned]

    for after, without in zip(ends(start), ends(base.translator.zero_adapter()), strict=True):
        assert after < without


def test_the_first_step_of_b_is_the_gradients_best_approximation(base: SmallBase) -> None:
    images = base.images
    (one, *_) = concepts(images)
    start = gradient_start(base.translator, one.source, one.edited, one.tokens)
    zero = base.translator.zero_adapter()
    mask = torch.ones(len(one.tokens), dtype=torch.bool)
    x, truth = to_unit(one.source), to_unit(one.edited)
    assert torch.equal(
        base.translator(start, x, one.tokens, mask), base.translator(zero, x, one.tokens, mask)
    )
    leaves = {k: v.clone().requires_grad_() for k, v in start.items()}
    (base.translator(leaves, x, one.tokens, mask) - truth).abs().mean().backward()
    merged = {
        k: v.detach().clone().requires_grad_() for k, v in base.translator.merge(zero).items()
    }
    (base.translator.apply(merged, x, one.tokens, mask) - truth).abs().mean().backward()
    checked = 0
    for group in [g for g in base.translator.groups if g.a]:
        whole = merged[f"{group.name}.weight"].grad
        step, down = leaves[group.b].grad, start[group.a].flatten(1)
        assert whole is not None and step is not None
        length = float(down[0].norm())
        torch.testing.assert_close(down.norm(), zero[group.a].norm(), rtol=1e-3, atol=0)
        reached = step.flatten(1) @ down / length**2
        values = torch.linalg.svdvals(whole.flatten(1))
        left = (whole.flatten(1) - reached).norm()
        rest = values[len(down) :].square().sum().sqrt()
        assert left <= rest * (1 + 1e-4) + 1e-5 * values[0]
        checked += bool(values[0] > 0)
    assert checked > 3


def test_what_is_not_finite_is_said(base: SmallBase) -> None:
    settings = SharedStartSettings(joint_steps=3, reptile_steps=3, inner_steps=2, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"at step . of 3"):
        joint_adapter(base.translator, lambda _: base.images, settings)
    with pytest.raises(FloatingPointError, match=r"Reptile's step . of 3"):
        reptile(base.translator, lambda _: base.images, settings, ADAPT, None, 0)
    one = concepts(base.images)[0]
    broken = torch.full_like(one.tokens, float("nan"))
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        gradient_start(base.translator, one.source, one.edited, broken)
