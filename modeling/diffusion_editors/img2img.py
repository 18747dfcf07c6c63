"""Stable Diffusion img2img, and any newer model that AutoPipelineForImage2Image knows.

SDEdit (Meng et al., ICLR 2022): noise the picture part of the way, denoise it with the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from modeling.diffusion_editors.core import DiffusionEditor, unflagged
from modeling.editors import EditError


class ImageToImage(DiffusionEditor):
    """`options.model` may name SDXL-Turbo, FLUX, …: the pipeline's class is found by diffusers."""

    name = "img2img"
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    style = "prompt"

    def load(self, model: str) -> Any:
        from diffusers import AutoPipelineForImage2Image

        return self.fetch(AutoPipelineForImage2Image, model)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        strength, steps = self.setting("strength", 0.6), int(self.setting("steps", 50))
        if int(steps * strength) < 1:
            raise EditError(
                f"{steps} steps at strength {strength} are none: give more steps (editing.steps)"
            )
        output = self.pipeline(
            prompt=texts,
            image=images,
            strength=strength,
            guidance_scale=self.setting("guidance", 7.5),
            num_inference_steps=steps,
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)
