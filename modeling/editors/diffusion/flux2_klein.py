"""FLUX.2 [klein] (Black Forest Labs, 2026): edits a picture as an instruction says, in four steps.

A transformer that sees the picture's tokens beside those of the result. Several pictures of a call
would be references of one edit, so each has a call of its own; the text is encoded once for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from modeling.editors.diffusion.core import DiffusionEditor

STEPS = 4


class Flux2Klein(DiffusionEditor):
    """The distilled model; the base model of the same name is guided (editing.guidance)."""

    name = "flux2_klein"
    model = "black-forest-labs/FLUX.2-klein-4B"
    style = "instruction"

    def load(self, model: str) -> Any:
        from diffusers import Flux2KleinPipeline

        return self.fetch(Flux2KleinPipeline, model)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        width, height = images[0].size
        guidance = self.setting("guidance", 1.0)
        keywords: dict[str, Any] = {
            "height": height,
            "width": width,
            "guidance_scale": guidance,
            "num_inference_steps": int(self.setting("steps", STEPS)),
            "output_type": "np",
        }
        told = {text: self.pipeline.encode_prompt(text)[0] for text in set(texts)}
        if guidance > 1:
            keywords["negative_prompt_embeds"] = self.pipeline.encode_prompt("")[0]
        made = [
            self.pipeline(image=image, prompt_embeds=told[text], generator=noise, **keywords).images
            for image, text, noise in zip(images, texts, self.generators(seeds), strict=True)
        ]
        return np.concatenate(made)
