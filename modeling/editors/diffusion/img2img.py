"""Stable Diffusion img2img, and any newer model that AutoPipelineForImage2Image knows.

SDEdit (Meng et al., ICLR 2022): noise the picture part of the way, denoise it with the text.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from PIL import Image

from modeling.editors.diffusion.core import DiffusionEditor, EditorOptions, unflagged
from modeling.editors.interface import EditError

STRENGTH, STEPS = 0.6, 50


class ImageToImage(DiffusionEditor):
    """`options.model` may name SDXL-Turbo, FLUX, …: the pipeline's class is found by diffusers.

    FLUX Kontext, which has no strength, is told an instruction. Others without a strength (FLUX 2,
    Qwen-Image-Edit) are refused: they take several pictures as references of one edit.
    """

    name = "img2img"
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    style = "prompt"

    def __init__(self, options: EditorOptions | None = None) -> None:
        super().__init__(options)
        self.keywords = frozenset(inspect.signature(self.pipeline.__call__).parameters)
        if "strength" in self.keywords:
            self.check_strength(STRENGTH, STEPS)
        elif "_auto_resize" in self.keywords:  # FLUX Kontext
            self.style = "instruction"
        else:
            raise EditError(
                f"the editor {self.name!r} cannot use a {type(self.pipeline).__name__}: it does not"
                " edit several pictures a call"
            )

    def load(self, model: str) -> Any:
        from diffusers import AutoPipelineForImage2Image

        return self.fetch(AutoPipelineForImage2Image, model)

    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        width, height = images[0].size
        keywords: dict[str, Any] = {
            "strength": self.setting("strength", STRENGTH),
            # else newer models edit at their own size, about 1024×1024
            "height": height,
            "width": width,
            "max_area": height * width,
            "_auto_resize": False,
        }
        output = self.pipeline(
            prompt=texts,
            image=images,
            guidance_scale=self.setting("guidance", 7.5 if self.style == "prompt" else 3.5),
            num_inference_steps=int(self.setting("steps", STEPS)),
            generator=self.generators(seeds),
            output_type="np",
            **{key: value for key, value in keywords.items() if key in self.keywords},
        )
        return unflagged(output)
