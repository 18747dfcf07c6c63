"""InstructPix2Pix (Brooks et al., CVPR 2023): edits a picture as an instruction says."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from modeling.diffusion_editors.core import DiffusionEditor, unflagged
from modeling.editors import EditError


class InstructPix2Pix(DiffusionEditor):
    """The UNet sees the source's latents as further channels; two guidances, text and image."""

    name = "instruct_pix2pix"
    model = "timbrooks/instruct-pix2pix"
    style = "instruction"
    default_steps = 100
    default_guidance, default_image_guidance = 7.5, 1.5

    def load(self, model: str) -> Any:
        from diffusers import StableDiffusionInstructPix2PixPipeline

        pipeline = self.fetch(StableDiffusionInstructPix2PixPipeline, model)
        channels, latents = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
        if channels != 2 * latents:
            raise EditError(
                f"{model}: its UNet takes {channels} channels, an instructed one {2 * latents}"
                f" (latents of the edit and of the source): editing.models.{self.name}=FOLDER"
            )
        return pipeline

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        output = self.pipeline(
            prompt=texts,
            image=images,
            num_inference_steps=int(self.setting("steps", self.default_steps)),
            guidance_scale=self.setting("guidance", self.default_guidance),
            image_guidance_scale=self.setting("image_guidance", self.default_image_guidance),
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)
