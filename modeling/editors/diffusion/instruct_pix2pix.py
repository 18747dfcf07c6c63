"""InstructPix2Pix (Brooks et al., CVPR 2023): edits a picture as an instruction says."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from modeling.editors.diffusion.core import DiffusionEditor, EditorOptions, unflagged
from modeling.editors.interface import EditError


class InstructPix2Pix(DiffusionEditor):
    """The UNet sees the source's latents as further channels; two guidances, text and image."""

    name = "instruct_pix2pix"
    model = "timbrooks/instruct-pix2pix"
    style = "instruction"
    default_steps = 100
    default_guidance, default_image_guidance = 7.5, 1.5

    def __init__(self, options: EditorOptions | None = None) -> None:
        super().__init__(options)
        text, image = self.scales()
        if text <= 1 or image < 1:
            raise EditError(
                f"{self.name}: diffusers guides by neither text nor image at guidance {text:g} and"
                f" image guidance {image:g}: give more than 1, and 1 or more"
            )

    def load(self, model: str) -> Any:
        pipeline = self.fetch(self.kind(), model)
        channels, wanted = pipeline.unet.config.in_channels, 2 * pipeline.vae.config.latent_channels
        if channels != wanted:
            raise EditError(
                f"the editor {self.name!r} cannot use {model!r}: its UNet takes {channels}"
                f" channels, not {wanted}. Give an InstructPix2Pix"
                f" (editing.models.{self.name}=FOLDER)"
            )
        return pipeline

    def kind(self) -> Any:
        """The diffusers pipeline's class."""
        from diffusers import StableDiffusionInstructPix2PixPipeline

        return StableDiffusionInstructPix2PixPipeline

    def scales(self) -> tuple[float, float]:
        """Text and image guidance, as the pipeline takes them."""
        return (
            self.setting("guidance", self.default_guidance),
            self.setting("image_guidance", self.default_image_guidance),
        )

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        text, image = self.scales()
        output = self.pipeline(
            prompt=texts,
            image=images,
            num_inference_steps=int(self.setting("steps", self.default_steps)),
            guidance_scale=text,
            image_guidance_scale=image,
            generator=self.generators(seeds),
            output_type="np",
        )
        return unflagged(output)
