"""ControlNet (Zhang et al., ICCV 2023): img2img that keeps the edges of the picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from modeling.diffusion_editors.core import DiffusionEditor, unflagged

EDGES = (100, 200)
"""Canny's thresholds, those that the published ControlNet was trained with."""


class ControlNet(DiffusionEditor):
    """`options.model` is a Stable Diffusion, `options.extra` a ControlNet for Canny edges."""

    name = "controlnet"
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    extra = "lllyasviel/sd-controlnet-canny"
    style = "prompt"

    def load(self, model: str) -> Any:
        from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline

        extra = self.fetch(ControlNetModel, self.options.extra or self.extra, key="extras")
        return self.fetch(StableDiffusionControlNetImg2ImgPipeline, model, controlnet=extra)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        output = self.pipeline(
            prompt=texts,
            image=images,
            control_image=[edges(i) for i in images],
            strength=self.setting("strength", 0.8),
            guidance_scale=self.setting("guidance", 7.5),
            num_inference_steps=int(self.setting("steps", 50)),
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)


def edges(image: Image.Image) -> Image.Image:
    """Canny edges, white on black, in RGB."""
    found = cv2.Canny(np.asarray(image.convert("L")), *EDGES)
    return Image.fromarray(found).convert("RGB")
