"""ControlNet (Zhang et al., ICCV 2023): img2img that keeps the edges of the picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from modeling.editors.diffusion.core import DiffusionEditor, EditorOptions, unflagged
from modeling.editors.interface import EditError

EDGES = (100, 200)
"""Canny's thresholds: those of the published ControlNet's own examples."""
STRENGTH, STEPS = 0.8, 50


class ControlNet(DiffusionEditor):
    """`options.model` is a Stable Diffusion, `options.extra` a ControlNet for Canny edges."""

    name = "controlnet"
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    extra = "lllyasviel/sd-controlnet-canny"
    style = "prompt"

    def __init__(self, options: EditorOptions | None = None) -> None:
        super().__init__(options)
        self.check_strength(STRENGTH, STEPS)

    def load(self, model: str) -> Any:
        from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline

        extra = self.options.extra or self.extra
        network = self.fetch(ControlNetModel, extra, key="extras")
        pipeline = self.fetch(StableDiffusionControlNetImg2ImgPipeline, model, controlnet=network)
        for key in ("in_channels", "cross_attention_dim"):
            ours, theirs = pipeline.unet.config[key], network.config[key]
            if ours != theirs:
                raise EditError(
                    f"the ControlNet {extra!r} is not for {model!r}: {key} {theirs}, not {ours}."
                    f" Give two of one family (editing.models.{self.name}, editing.extras.…)"
                )
        return pipeline

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        output = self.pipeline(
            prompt=texts,
            image=images,
            control_image=[edges(i) for i in images],
            strength=self.setting("strength", STRENGTH),
            guidance_scale=self.setting("guidance", 7.5),
            num_inference_steps=int(self.setting("steps", STEPS)),
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)


def edges(image: Image.Image) -> Image.Image:
    """Canny edges of an RGB picture (the strongest channel's), white on black, in RGB."""
    return Image.fromarray(cv2.Canny(np.asarray(image), *EDGES)).convert("RGB")
