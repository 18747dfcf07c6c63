"""Adapter training by Eq. (4), for many concepts at once.

One function serves the collection of adapters, the short fine-tune after a prediction, and every
control: they differ only in where the adapters start and in the recipe. All concepts of a call
share one order of images, one dropout draw and one discriminator start, so that their adapters
are comparable (PAPER_NOTES: LoRA factor ambiguity).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modeling.compiling import compiled, is_on
from modeling.precision import training_pass
from modeling.targets.coordinates import FACTORS, Coordinates
from modeling.targets.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss
from modeling.targets.lora import MERGED, VMAP, AdaptedTranslator, Adapter, stack, unstack
from modeling.targets.recipe import Recipe


@dataclass
class ConceptData:
    """Training pairs of one concept: uint8 [M, 3, H, W] each, prompt tokens [L, D]."""

    concept_id: str
    source: Tensor
    edited: Tensor
    tokens: Tensor


@dataclass
class Trained:
    """What training gave for one concept; `error` says why there is no adapter."""

    concept_id: str
    adapter: Adapter | None
    error: str = ""
    seconds: float = 0.0
    """Wall-clock of the optimisation steps alone, shared by the concepts of the call."""
    learned_seconds: float = 0.0
    """Of these, those of learned steps (modeling/weights/learned_steps.py)."""
    checkpoints: dict[int, Adapter] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    """L1 of each step's batch, images in [-1, 1]."""


def to_unit(images: Tensor) -> Tensor:
    """uint8 [0, 255] → float32 [-1, 1]."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1], clamped → uint8 [0, 255]."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def pad_tokens(tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Unpadded [L_i, D] → tokens [G, L, D] and mask [G, L] (True = token)."""
    padded = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True)
    lengths = torch.tensor([t.shape[0] for t in tokens])
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None]


def batch_order(n_images: int, steps: int, batch: int, seed: int) -> Tensor:
    """Image indices [steps, batch]: shuffled epochs one after another, from the seed alone.

    Steps may be 0; ValueError without images or with an empty batch.
    """
    if n_images < 1 or batch < 1 or steps < 0:
        raise ValueError(f"cannot draw {steps} batches of {batch} from {n_images} images")
    rng = torch.Generator().manual_seed(seed)
    epochs = max(1, math.ceil(steps * batch / n_images))
    order = torch.cat([torch.randperm(n_images, generator=rng) for _ in range(epochs)])
    return order[: steps * batch].view(steps, batch)


def train_adapters(
    translator: AdaptedTranslator,
    concepts: Sequence[ConceptData],
    starts: Sequence[Mapping[str, Tensor]],
    recipe: Recipe,
    discriminator: PatchDiscriminator | None,
    seed: int,
    keep: Sequence[int] = (),
    on_step: Callable[[int, Adapter], None] | None = None,
    coordinates: Coordinates = FACTORS,
    way: str | None = None,
) -> list[Trained]:
    """Train one adapter per concept, all in one fused batch.

    `starts` are the adapters' first weights; `discriminator` is where every concept's own copy
    starts (required unless `recipe.gan_weight` is 0); `keep` lists steps whose adapters are
    returned as checkpoints. `on_step(step, adapters)` sees the kept average with a leading concept
    axis at step 0 and after each step; its time is not counted. A concept whose loss or weights
    become non-finite comes back with an `error` and no adapter; the others are not affected.
    `coordinates`: in which Adam works, and the average is taken. `way`: of the concepts side by
    side (AdaptedTranslator.translate); the discriminators go one after another where it is MERGED.
    """
    pairs = _check(concepts, starts, recipe, discriminator)
    device = concepts[0].source.device
    tokens, mask = (t.to(device) for t in pad_tokens([c.tokens for c in concepts]))
    weights = {k: v.clone().requires_grad_() for k, v in coordinates.of(stack(starts)).items()}
    average = {k: v.detach().clone() for k, v in weights.items()}
    optimiser = torch.optim.Adam(weights.values(), lr=recipe.lr, betas=(0.5, 0.999))
    critics = None
    if discriminator is not None and recipe.gan_weight:
        critics = Critics(discriminator, len(concepts), recipe.discriminator_lr, way)
    out = [Trained(c.concept_id, None) for c in concepts]
    order = batch_order(pairs, recipe.steps, recipe.batch, seed).to(device)
    losses: list[Tensor] = []

    def kept() -> list[Adapter]:
        return unstack(coordinates.adapters(average))

    if on_step:
        on_step(0, coordinates.adapters(average))
    clock = _Clock(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step, index in enumerate(order):
            torch.manual_seed(seed * 1_000_003 + step)  # dropout, whatever `on_step` draws
            source = to_unit(torch.stack([c.source[index] for c in concepts]))
            edited = to_unit(torch.stack([c.edited[index] for c in concepts]))
            with _dropout_on(translator.network):
                adapters = coordinates.adapters(weights)
                fake = training_pass(translator.translate, adapters, source, tokens, mask, way)
            l1 = (fake - edited).abs().mean(dim=(1, 2, 3, 4))
            loss = recipe.l1_weight * l1.sum()
            if critics:
                critics.learn(source, edited, fake.detach())
                loss = loss + recipe.gan_weight * critics.verdict(source, fake) * len(concepts)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip:
                _clip_each(weights, recipe.clip)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            optimiser.step()
            _average_in(average, weights, recipe.ema, step)
            losses.append(l1.detach())
            if step + 1 in keep:
                for trained, adapter in zip(out, kept(), strict=True):
                    trained.checkpoints[step + 1] = {k: v.clone() for k, v in adapter.items()}
            if on_step:
                with clock.stopped():
                    on_step(step + 1, coordinates.adapters(average))
    seconds = clock.read()
    of_each = torch.stack(losses, dim=1).tolist() if losses else [[] for _ in out]
    for trained, adapter, values in zip(out, kept(), of_each, strict=True):
        trained.seconds, trained.losses = seconds, values
        _conclude(trained, adapter)
    return out


class _Clock:
    """Seconds of a device's work; it is waited for only where the clock is stopped or read."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        self.begun = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.seconds += self._now() - self.begun
        yield
        self.begun = self._now()

    def read(self) -> float:
        return self.seconds + self._now() - self.begun


def _check(
    concepts: Sequence[ConceptData],
    starts: Sequence[Mapping[str, Tensor]],
    recipe: Recipe,
    discriminator: PatchDiscriminator | None,
) -> int:
    """The number of pairs of each concept; ValueError for what cannot be trained together."""
    if not concepts or len(concepts) != len(starts):
        raise ValueError(f"{len(concepts)} concepts with {len(starts)} starts: need one each")
    counts = {c.source.shape[0] for c in concepts} | {c.edited.shape[0] for c in concepts}
    if len(counts) != 1:
        raise ValueError(f"concepts of one call need equally many pairs, got {sorted(counts)}")
    if recipe.gan_weight and discriminator is None:
        raise ValueError("gan_weight > 0 needs a discriminator to start from")
    return counts.pop()


class Critics:
    """A discriminator for each of `count` concepts; all start from one, which is left alone.

    Images are [count, B, 3, H, W] in [-1, 1]. way: MERGED, one after another, or any other, in
    grouped operations (vmap). By default the latter on a GPU, where they have not been compared;
    on a CPU they are the slower (tests/bench/results/together_cpu.json).
    """

    def __init__(
        self, start: PatchDiscriminator, count: int, lr: float, way: str | None = None
    ) -> None:
        self._network, self._count, self._way = start, count, way
        self._alone = compiled(self._one)
        self.params: Adapter = {
            k: v.detach().expand(count, *v.shape).clone().requires_grad_()
            for k, v in start.named_parameters()
        }
        self._optimiser = torch.optim.Adam(self.params.values(), lr=lr, betas=(0.5, 0.999))

    def learn(self, source: Tensor, edited: Tensor, fake: Tensor) -> None:
        """One step on the true edits and on `fake`, which carries no gradient."""
        real_score = self.judge(self.params, source, edited)
        fake_score = self.judge(self.params, source, fake)
        # means are per concept and then summed: every concept's gradient is its own
        loss = discriminator_loss(real_score, fake_score) * self._count
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()

    def verdict(self, source: Tensor, fake: Tensor) -> Tensor:
        """The adversarial loss of `fake`, the mean over concepts; the critics do not learn."""
        frozen = {k: v.detach() for k, v in self.params.items()}
        return adversarial_loss(self.judge(frozen, source, fake))

    def judge(self, params: Mapping[str, Tensor], source: Tensor, image: Tensor) -> Tensor:
        """Scores [count, B, …]."""

        way = self._way or (VMAP if image.is_cuda and not is_on() else MERGED)
        if way != MERGED and self._count > 1:
            return training_pass(vmap(self._one), dict(params), source, image)
        each = zip(unstack(params), source, image, strict=True)
        return torch.stack([training_pass(self._alone, p, s, i) for p, s, i in each])

    def _one(self, params: dict[str, Tensor], source: Tensor, image: Tensor) -> Tensor:
        return functional_call(self._network, params, (source, image))


@torch.no_grad()
def _average_in(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int
) -> None:
    """Take the weights after step `step` into their exponential moving average.

    By hand, as torch's AveragedModel averages modules, and these are stacks of adapters.
    """
    # warm-up of the decay, so that the average forgets where it started
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.values()), [weights[k] for k in average], 1 - decay)


def _conclude(trained: Trained, adapter: Adapter) -> None:
    """Give the adapter to its concept, or the reason why there is none."""
    steps = len(trained.losses)
    bad = next((i for i, v in enumerate(trained.losses) if not math.isfinite(v)), None)
    if bad is not None:
        trained.error = f"loss became non-finite at step {bad + 1} of {steps}"
    elif not all(torch.isfinite(v).all() for v in adapter.values()):
        trained.error = "weights became non-finite"
    else:
        trained.adapter = {k: v.clone() for k, v in adapter.items()}


@contextmanager
def _dropout_on(network: nn.Module) -> Iterator[None]:
    """Training mode for one forward pass: `on_step`, or who catches an error, finds eval mode."""
    network.train()
    try:
        yield
    finally:
        network.eval()


def _clip_each(weights: Mapping[str, Tensor], limit: float) -> None:
    """Scale each concept's gradient to a norm of at most `limit`, independently of the others."""
    gradients = [w.grad for w in weights.values() if w.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    scale = (limit / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))


@torch.no_grad()
def translate_all(
    translator: AdaptedTranslator,
    adapters: Mapping[str, Tensor],
    source: Tensor,
    tokens: Sequence[Tensor],
    batch: int = 64,
) -> Tensor:
    """Edit uint8 [M, 3, H, W] with G adapters (leading axis) → uint8 [G, M, 3, H, W]."""
    device = source.device
    padded, mask = (t.to(device) for t in pad_tokens(tokens))
    count = padded.shape[0]
    parts = []
    for chunk in source.split(batch):
        x = to_unit(chunk).expand(count, -1, -1, -1, -1)
        parts.append(to_uint8(translator.translate(adapters, x, padded, mask)))
    return torch.cat(parts, dim=1)
