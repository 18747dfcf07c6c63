"""Null-text Inversion (Mokady et al., CVPR 2023), then an edit by prompt-to-prompt.

No pipeline ships it: Algorithm 1 on diffusers' own UNet and schedulers.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from modeling.editors.diffusion.core import EditorOptions, Evaluations
from modeling.editors.diffusion.ddim_inversion import DDIM, InversionEditor
from modeling.editors.diffusion.prompt_to_prompt import PromptToPrompt, align

GUIDANCE = 7.5
INNER_STEPS = 10
LEARNING_RATE = 1e-2
PUBLISHED_STEPS = 50
"""What the learning rate's decay and the stopping rule were set for."""


class Inversion(NamedTuple):
    """What pictures are made of again under guidance.

    pivots: [steps + 1, n, 4, h, w], from the pictures' latents to the noise (DDIM, guidance 1).
    nulls: [steps, n, 77, d], the null-text embedding of each step, from the noise on.
    texts: [n, 77, d], the source prompts' embeddings.
    """

    pivots: Tensor
    nulls: Tensor
    texts: Tensor


class NullTextInversion(InversionEditor):
    """Inverts under `source`, optimises a null text for every step, edits with the target prompt.

    No noise is drawn: the seeds play no part. In float16 and bfloat16 rounding bounds the loss from
    below, so that fewer pictures may stop early. All but the edit itself (4 evaluations a step)
    depends on the picture alone: `options.inversions` pictures are inverted once for all concepts.
    """

    name = "null_text"
    style = "prompt"

    def __init__(self, options: EditorOptions | None = None) -> None:
        super().__init__(options)
        self._kept: dict[bytes, Inversion] = {}
        if self.options.checkpointing:
            self.pipeline.unet.enable_gradient_checkpointing()

    @classmethod
    def evaluations(cls, steps: int = PUBLISHED_STEPS) -> Evaluations:
        """At most, a step: 1 to invert, 2 + 10 to optimise, 4 to edit; 10 backward.

        Early stopping saves some of the ten; checkpointing adds a forward to each backward.
        """
        return Evaluations(steps * (1 + 2 + INNER_STEPS + 4), steps * INNER_STEPS)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        sources = [self.source] * len(images)
        inversion = self._remembered(images) if self.options.inversions else None
        if inversion is None:
            inversion = self.invert(images, sources)
        return self.ddim.decode(self.edited(inversion, sources, texts))

    def _remembered(self, images: list[Image.Image]) -> Inversion:
        """What `edited` needs of these pictures' inversions: of the pivots, the noise alone.

        The first pictures are kept and never replaced: all concepts go through the pictures in one
        order, in which the one that is longest ago is the next to be needed.
        """
        keys = [hashlib.sha256(i.tobytes()).digest() for i in images]
        found = {k: self._kept[k] for k in keys if k in self._kept}
        missing = {k: i for k, i in zip(keys, images, strict=True) if k not in found}
        if missing:
            made = self.invert(list(missing.values()), [self.source] * len(missing))
            for n, key in enumerate(missing):
                one = Inversion(
                    made.pivots[-1:, n : n + 1], made.nulls[:, n : n + 1], made.texts[:1]
                )
                found[key] = Inversion(*(part.cpu() for part in one))
                if len(self._kept) < self.options.inversions:
                    self._kept[key] = found[key]
        parts = [found[key] for key in keys]
        return Inversion(
            torch.cat([p.pivots for p in parts], dim=1).to(self.device),
            torch.cat([p.nulls for p in parts], dim=1).to(self.device),
            torch.cat([p.texts for p in parts]).to(self.device),
        )

    def invert(self, images: list[Image.Image], prompts: list[str]) -> Inversion:
        """Invert pictures of one size, each under its own prompt."""
        with torch.no_grad():
            texts = self.ddim.embed(prompts)
            pivots = self.ddim.invert(self.ddim.encode(images), texts)
            null = self.ddim.embed([""] * len(images))
        nulls = optimise_nulls(self.ddim, pivots, texts, null, self.setting("guidance", GUIDANCE))
        return Inversion(pivots, nulls, texts)

    @torch.no_grad()
    def reconstruct(self, inversion: Inversion) -> np.ndarray:
        """The pictures again, under guidance: float [n, H, W, 3] in [0, 1]."""
        guidance = self.setting("guidance", GUIDANCE)
        return self.ddim.decode(follow(self.ddim, inversion, guidance)[-1])

    @torch.no_grad()
    def edited(self, inversion: Inversion, sources: list[str], targets: list[str]) -> Tensor:
        """Latents of the pictures edited to the target prompts, [n, 4, h, w].

        sources: the prompts of the inversion. Source and target are denoised side by side.
        """
        ddim, scale = self.ddim, self.setting("guidance", GUIDANCE)
        tokenizer = self.pipeline.tokenizer
        control = PromptToPrompt(
            [align(s, t, tokenizer) for s, t in zip(sources, targets, strict=True)]
        )
        texts = torch.cat([inversion.texts, ddim.embed(targets)])
        latents = inversion.pivots[-1].repeat(2, 1, 1, 1)
        for i, t in enumerate(ddim.timesteps):
            with control.at(self.pipeline.unet, i / ddim.steps):
                output = ddim.guided(latents, t, inversion.nulls[i].repeat(2, 1, 1), texts, scale)
            latents = ddim.down(output, t, latents)
        return latents.chunk(2)[1]


@torch.no_grad()
def follow(ddim: DDIM, inversion: Inversion, guidance: float) -> Tensor:
    """The trajectory under guidance with the null texts, [steps + 1, n, 4, h, w], noise first."""
    path = [inversion.pivots[-1]]
    for i, t in enumerate(ddim.timesteps):
        output = ddim.guided(path[-1], t, inversion.nulls[i], inversion.texts, guidance)
        path.append(ddim.down(output, t, path[-1]))
    return torch.stack(path)


def optimise_nulls(
    ddim: DDIM,
    pivots: Tensor,
    texts: Tensor,
    null: Tensor,
    guidance: float = GUIDANCE,
    inner_steps: int = INNER_STEPS,
    tolerance: float = 1e-5,
) -> Tensor:
    """Algorithm 1: null texts with which guided DDIM follows the pivots, [steps, n, 77, d].

    pivots: [steps + 1, n, 4, h, w], pictures first; texts, null: [n, 77, d]. Each step starts from
    the null text of the step before and runs Adam on the mean squared distance to the pivot, with
    the published code's rates (scaled to the number of steps): 0.01 (1 - i / 100), and a stop below
    tolerance + 2e-5 i at step i of 50. Pictures share a batch and nothing else: each has its own
    embedding, Adam state and stop, and one that has stopped is no longer evaluated.
    """
    current = list(null.detach())
    latents, found = pivots[-1], []
    for i, t in enumerate(ddim.timesteps):
        progress, wanted = i / ddim.steps, pivots[-2 - i]
        current = [nn.Parameter(one.detach().clone()) for one in current]
        adam = torch.optim.Adam(current, lr=LEARNING_RATE * (1 - progress / 2))
        stop = tolerance + 2e-5 * progress * PUBLISHED_STEPS
        with torch.no_grad():
            given = ddim.predict(latents, t, texts)
        rows = list(range(len(current)))
        for _ in range(inner_steps):
            adam.zero_grad()  # to None: Adam leaves out the pictures that have stopped
            with torch.enable_grad():
                nulls = torch.stack([current[row] for row in rows])
                made = _step(ddim, latents[rows], t, nulls, given[rows], guidance)
                errors = (made - wanted[rows]).square()
                # the sum, divided below: a loss scale, or float16 would lose the mean's gradient
                errors.sum().backward()
            for row in rows:
                _grad(current[row]).div_(errors[0].numel())
            adam.step()
            losses = errors.detach().flatten(1).mean(1).tolist()
            rows = [row for row, loss in zip(rows, losses, strict=True) if not loss < stop]
            if not rows:
                break
        with torch.no_grad():
            found.append(torch.stack(current).detach())
            latents = _step(ddim, latents, t, found[-1], given, guidance)
    return torch.stack(found)


def _step(
    ddim: DDIM, latents: Tensor, t: int, null: Tensor, given: Tensor, guidance: float
) -> Tensor:
    """A guided DDIM step; given: the UNet's output under the text, which is evaluated once."""
    without = ddim.predict(latents, t, null)
    return ddim.down(without + guidance * (given - without), t, latents)


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
