"""Stable Diffusion img2img, and any newer model that AutoPipelineForImage2Image knows.

SDEdit (Meng et al., ICLR 2022): noise the picture part of the way, denoise it with the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from modeling.diffusion_editors.core import DiffusionEditor, unflagged


class ImageToImage(DiffusionEditor):
    """`options.model` may name SDXL-Turbo, FLUX, …: the pipeline's class is found by diffusers."""

    name = "img2img"
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    style = "prompt"

    def load(self, model: str) -> Any:
        from diffusers import AutoPipelineForImage2Image

        return self.fetch(AutoPipelineForImage2Image, model)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        output = self.pipeline(
            prompt=texts,
            image=images,
            strength=self.setting("strength", 0.6),
            guidance_scale=self.setting("guidance", 7.5),
            num_inference_steps=int(self.setting("steps", 50)),
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)
