"""pix2pix-zero (Parmar et al., SIGGRAPH 2023): an edit direction, guided by cross-attention.

diffusers keeps its pipeline as deprecated code, of one picture a call; this gives its numbers
(tests/modeling/editors/diffusion/test_pix2pix_zero.py) for batches.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeling.editors.diffusion.attention_maps import Change, changed_attention
from modeling.editors.diffusion.core import Evaluations
from modeling.editors.diffusion.ddim_inversion import DDIM, InversionEditor
from modeling.editors.diffusion.noise_regularisation import NoiseRegularisation

GUIDANCE = 5.0
AMOUNT = 0.1

# The paper has a language model write about a thousand sentences on each of the two words.
SENTENCES = (
    "{subject}",
    "a photo of {subject}",
    "a picture of {subject}",
    "an image of {subject}",
    "a portrait of {subject}",
    "a close-up of {subject}",
    "a studio portrait of {subject}",
    "a candid photo of {subject}",
    "the face of {subject}",
    "the head and shoulders of {subject}",
    "this is {subject}",
    "there is {subject} in the picture",
    "we see {subject} from the front",
    "{subject}, looking at the camera",
    "{subject}, smiling",
    "{subject}, indoors",
    "{subject}, outdoors",
    "{subject}, in front of a plain background",
    "{subject}, in soft light",
    "{subject}, in bright daylight",
)


class Pix2PixZero(InversionEditor):
    """Inverts under `source` with whitened noise, then denoises along the direction to the text.

    The seeds draw the regularisation's rolls.
    """

    name = "pix2pix_zero"
    style = "subject"
    source_subject = "a person"

    @classmethod
    def evaluations(cls, steps: int = 50) -> Evaluations:
        """A step: 1 to invert, 1 for the reference maps, 2 for the gradient, 2 to edit."""
        return Evaluations(steps * 6, steps * 2)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        source = self.ddim.embed([self.source] * len(images))
        whiten = NoiseRegularisation(self.ddim, self.generators(seeds))
        noise = self.ddim.invert(self.ddim.encode(images), source, whiten)[-1]
        directions = {text: self.direction(text) for text in set(texts)}
        direction = torch.stack([directions[text] for text in texts])
        guidance = self.setting("guidance", GUIDANCE)
        return self.ddim.decode(edit_along(self.ddim, noise, source, direction, guidance))

    @torch.no_grad()
    def direction(self, subject: str) -> Tensor:
        """Mean embedding of SENTENCES on the subject less that on `source_subject`: [77, d]."""
        means = [
            self.ddim.embed([s.format(subject=one) for s in SENTENCES]).mean(0)
            for one in (self.source_subject, subject)
        ]
        return means[1] - means[0]


@torch.no_grad()
def edit_along(
    ddim: DDIM,
    noise: Tensor,
    source: Tensor,
    direction: Tensor,
    guidance: float = GUIDANCE,
    amount: float = AMOUNT,
) -> Tensor:
    """Denoise inverted noise along an edit direction: latents of pictures [n, 4, h, w].

    noise: [n, 4, h, w]; source, direction: [n, 77, d]. The text is source + direction and the
    negative prompt the source, as in the published code. amount: of the gradient step at each t
    that brings the cross-attention back to that of the source's own denoising (Sec. 3.3), which
    runs along, so that the maps of one step only are held.
    """
    unet = ddim.pipeline.unet
    texts = torch.cat([source, source + direction])
    reference = edited = noise
    for t in ddim.timesteps:
        both = edited.repeat(2, 1, 1, 1)
        if amount:
            maps: list[Tensor] = []
            with changed_attention(unet, cross=kept_in(maps)):
                output = ddim.predict(reference, t, source)
            reference = ddim.down(output, t, reference)
            both = both - amount * map_gradient(ddim, both, t, texts, maps)[1]
        without, given = ddim.predict(both, t, texts).chunk(2)
        # the published code goes on from the latents that were moved under the negative prompt
        edited = ddim.down(without + guidance * (given - without), t, both.chunk(2)[0])
    return edited


def kept_in(maps: list[Tensor]) -> Change:
    """A Change that changes nothing and appends each layer's maps to `maps`."""

    def keep(layer: Tensor) -> Tensor:
        maps.append(layer)
        return layer

    return keep


def map_gradient(
    ddim: DDIM, latents: Tensor, t: int, texts: Tensor, wanted: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Distance of the cross-attention maps of [2n, 4, h, w] from those wanted, and its gradient.

    wanted: by layer, [n, heads, pixels, 77]. The distance [2n] sums squares over layers, pixels and
    tokens, and takes the mean over the heads of both halves of a picture.
    """
    left, distances = iter(wanted), []

    def compare(maps: Tensor) -> Tensor:
        error = (maps - next(left).repeat(2, 1, 1, 1)).to(ddim.dtype)
        distances.append(error.square().sum((2, 3)).mean(1) / 2)
        return maps

    with torch.enable_grad(), changed_attention(ddim.pipeline.unet, cross=compare):
        leaf = latents.detach().requires_grad_()
        ddim.predict(leaf, t, texts)
        distance = torch.stack(distances).sum(0)
        gradient = torch.autograd.grad(distance.sum(), leaf)[0]
    return distance.detach(), gradient
