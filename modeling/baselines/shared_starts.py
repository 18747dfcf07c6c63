"""Starts that know the collection, or the first gradients, but no text.

What a generated adapter has to beat besides the cheap controls (modeling/weights/controls.py):

- one adapter trained on the pairs of all training concepts at once (the translator is still told
  each prompt), as multi-task training would give it;
- a Reptile start, from which a few steps on a concept end best (first-order meta-learning: Nichol,
  Achiam and Schulman 2018, arXiv 1803.02999, Algorithm 1 in batches);
- LoRA-GA's idea (Wang, Yu and Li 2024, arXiv 2407.05000): A from the singular vectors of a layer's
  first gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modeling.baselines.recipe import SharedStartSettings
from modeling.precision import training_pass
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.lora import AdaptedTranslator, Adapter
from modeling.targets.recipe import AdapterTraining, Recipe
from modeling.weights.image_loss import ImageBatch

Draw = Callable[[int], ImageBatch]
"""The pairs of a step, from 0: some training concepts, as many pairs of each."""


def joint_adapter(
    translator: AdaptedTranslator, draw: Draw, settings: SharedStartSettings
) -> Adapter:
    """One adapter for all concepts, from zero LoRA by Adam on their mean L1; cosine to 0.

    Raises FloatingPointError when a loss is not finite.
    """
    zero = translator.zero_adapter()
    weights = {k: v.requires_grad_() for k, v in zero.items()}
    steps = settings.joint_steps
    recipe = Recipe(steps, settings.pairs, settings.lr, warmup=min(20, steps // 10))
    optimiser = torch.optim.Adam(weights.values(), betas=(0.5, 0.999))
    for step in range(steps):
        batch = draw(step)
        device = batch.source.device
        count = len(batch.source)
        shared = {k: w.expand(count, *w.shape) for k, w in weights.items()}
        tokens, mask = batch.text.tokens.to(device), batch.text.mask.to(device)
        fake = training_pass(translator.translate, shared, to_unit(batch.source), tokens, mask)
        loss = (fake - to_unit(batch.edited)).abs().mean()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss became non-finite at step {step + 1} of {steps}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.step()
    return {k: w.detach().clone() for k, w in weights.items()}


def reptile(
    translator: AdaptedTranslator,
    draw: Draw,
    settings: SharedStartSettings,
    adapting: AdapterTraining,
    discriminator: PatchDiscriminator | None,
    seed: int,
) -> Adapter:
    """A start from which `adapting`'s Adam is soon at the end, whatever the concept.

    Each step tunes it on some concepts for `inner_steps` at a constant rate, and goes a part of the
    way to the mean of what they became; the part falls linearly to 0. A draw holds inner_steps ·
    adapting.batch pairs of a concept or fewer. Raises FloatingPointError when a loss is not finite.
    """
    start, steps = translator.zero_adapter(), settings.reptile_steps
    inner = Recipe(
        settings.inner_steps,
        adapting.batch,
        settings.lr,
        adapting.l1_weight,
        adapting.gan_weight,
        adapting.discriminator_lr,
        lr_final=settings.lr,
        clip=1e3,
    )
    for step in range(steps):
        batch = draw(step)
        concepts = [
            ConceptData(str(i), source, edited, tokens[mask])
            for i, (source, edited, tokens, mask) in enumerate(
                zip(batch.source, batch.edited, batch.text.tokens, batch.text.mask, strict=True)
            )
        ]
        tuned = train_adapters(
            translator, concepts, [start] * len(concepts), inner, discriminator, seed + step
        )
        ends = []
        for one in tuned:
            if one.adapter is None:
                raise FloatingPointError(f"Reptile's step {step + 1} of {steps}: {one.error}")
            ends.append(one.adapter)
        part = settings.rate * (1 - step / steps)
        mean = {k: torch.stack([e[k] for e in ends]).mean(0) for k in start}
        start = {k: torch.lerp(v, mean[k], part) for k, v in start.items()}
    return start


def gradient_start(
    translator: AdaptedTranslator, source: Tensor, edited: Tensor, tokens: Tensor
) -> Adapter:
    """Zero LoRA, but A's rows are the first right singular vectors of the layer's gradient of L1.

    source, edited: uint8 [M, 3, H, W]; tokens [L, D]. So the first step of B is the gradient's best
    approximation of rank r. LoRA-GA also starts B from the left singular vectors and takes B·A off
    the base; an adapter of one base for all concepts has no place for that. A keeps its norm, for
    the learning rate's sake. Raises FloatingPointError when a gradient is not finite.
    """
    adapter = translator.zero_adapter()
    merged = {k: v.detach().requires_grad_() for k, v in translator.merge(adapter).items()}
    mask = torch.ones(len(tokens), dtype=torch.bool, device=source.device)
    with torch.enable_grad():
        fake = translator.apply(merged, to_unit(source), tokens.to(source.device), mask)
        loss = (fake - to_unit(edited)).abs().mean()
        layers = [g for g in translator.groups if g.a]
        gradients = torch.autograd.grad(loss, [merged[f"{g.name}.weight"] for g in layers])
    for group, gradient in zip(layers, gradients, strict=True):
        if not torch.isfinite(gradient).all():
            raise FloatingPointError(f"{group.name}: the first gradient is not finite")
        down = adapter[group.a]
        _, _, right = torch.linalg.svd(gradient.flatten(1).double(), full_matrices=False)
        rows = min(len(right), len(down))  # the others stay as they are
        norm = down.flatten(1).norm(dim=1).mean()
        down[:rows] = (right[:rows] * norm).to(down.dtype).view_as(down[:rows])
    return adapter
