"""DDIM and its inversion on a Stable Diffusion pipeline's own UNet (Song et al., ICLR 2021).

Sampling goes from x_t to the level below with ε(x_t, t); inversion goes up the same step with the ε
of the latents that it has, those below, at the same t. So the two undo each other exactly where ε
does not depend on x, and to first order in the step where it does. Both are without guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeling.editors.diffusion.core import DiffusionEditor, EditorOptions, unflagged
from modeling.editors.interface import EditError

Correction = Callable[[Tensor, Tensor, int], Tensor]
"""(the UNet's output, the latents that it saw, t) → the output to step with."""


class DDIM:
    """Pictures ↔ latents ↔ noise, with `steps` deterministic steps.

    Latents are [n, 4, h, w]; they and the steps are in float32 or better whatever the UNet's dtype,
    because inversion adds up the rounding of all steps. Everything is per picture: a batch gives
    what its pictures give one by one.
    Raises EditError for a pipeline that is no text-to-image Stable Diffusion, or too many steps.
    """

    def __init__(self, pipeline: Any, steps: int) -> None:
        from diffusers import DDIMInverseScheduler, DDIMScheduler

        channels = (pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels)
        if channels[0] != channels[1]:
            raise EditError(
                f"inversion needs a text-to-image Stable Diffusion: this UNet takes {channels[0]}"
                f" channels and the latents have {channels[1]}"
            )
        # clipping and thresholding cannot be undone
        self._down = DDIMScheduler.from_config(
            pipeline.scheduler.config,
            clip_sample=False,
            thresholding=False,
            set_alpha_to_one=False,
            timestep_spacing="leading",
        )
        self._up = DDIMInverseScheduler.from_config(self._down.config)
        trained = self._down.config.num_train_timesteps
        if steps > trained:
            raise EditError(f"{steps} steps: the model knows {trained} at most")
        self._down.set_timesteps(steps)
        self._up.set_timesteps(steps)
        self.pipeline, self.steps = pipeline, steps
        self.dtype = torch.promote_types(pipeline.unet.dtype, torch.float32)
        self.timesteps: list[int] = self._down.timesteps.tolist()
        """From noise to picture."""

    def encode(self, images: list[Image.Image]) -> Tensor:
        """RGB pictures of one size → latents: the mode of the VAE's distribution, no noise."""
        vae = self.pipeline.vae
        pixels = self.pipeline.image_processor.preprocess(images).to(vae.device, vae.dtype)
        return vae.encode(pixels).latent_dist.mode().to(self.dtype) * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents → float [n, H, W, 3] in [0, 1], NaN where the safety checker objects."""
        from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

        pipe, vae = self.pipeline, self.pipeline.vae
        pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
        pixels, flagged = pipe.run_safety_checker(pixels, vae.device, vae.dtype)
        images = pipe.image_processor.postprocess(pixels.detach(), output_type="np")
        return unflagged(StableDiffusionPipelineOutput(images, flagged))

    def embed(self, texts: list[str]) -> Tensor:
        """Texts → the text encoder's states, [n, 77, d]; longer texts are cut."""
        pipe = self.pipeline
        return pipe.encode_prompt(texts, pipe.unet.device, 1, False)[0].to(self.dtype)

    def predict(self, latents: Tensor, t: int, text: Tensor) -> Tensor:
        """One UNet evaluation a picture: latents [n, …], text [n, 77, d] → its output, [n, …]."""
        unet = self.pipeline.unet
        output = unet(latents.to(unet.dtype), t, encoder_hidden_states=text.to(unet.dtype))
        return output.sample.to(self.dtype)

    def guided(self, latents: Tensor, t: int, null: Tensor, text: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance: null + scale · (text - null); two evaluations a picture."""
        without, given = self.predict(
            torch.cat([latents, latents]), t, torch.cat([null, text])
        ).chunk(2)
        return without + scale * (given - without)

    def epsilon(self, output: Tensor, latents: Tensor, t: int) -> Tensor:
        """The noise that a UNet's output stands for, whichever prediction type it has."""
        signal = self._down.alphas_cumprod[t].to(self.dtype)
        match self._down.config.prediction_type:
            case "epsilon":
                return output
            case "v_prediction":
                return signal.sqrt() * output + (1 - signal).sqrt() * latents
            case _:  # "sample": the schedulers know no other
                return (latents - signal.sqrt() * output) / (1 - signal).sqrt()

    def down(self, output: Tensor, t: int, latents: Tensor) -> Tensor:
        """One DDIM step from t towards the picture."""
        return self._down.step(output, t, latents).prev_sample

    def up(self, output: Tensor, t: int, latents: Tensor) -> Tensor:
        """The step to t, from the level below it."""
        return self._up.step(output, t, latents).prev_sample

    def invert(self, latents: Tensor, text: Tensor, correct: Correction | None = None) -> Tensor:
        """Latents of pictures → their trajectory, [steps + 1, n, 4, h, w], the pictures' first.

        text: [n, 77, d], with guidance 1. correct: changes the UNet's output before each step.
        """
        path = [latents]
        for t in reversed(self.timesteps):
            output = self.predict(path[-1], t, text)
            if correct:
                output = correct(output, path[-1], t)
            path.append(self.up(output, t, path[-1]))
        return torch.stack(path)

    def sample(self, noise: Tensor, text: Tensor) -> Tensor:
        """Latents at the noise's end → latents of pictures, with guidance 1."""
        for t in self.timesteps:
            noise = self.down(self.predict(noise, t, text), t, noise)
        return noise


class InversionEditor(DiffusionEditor):
    """An editor that first inverts the picture by DDIM; Stable Diffusion, frozen."""

    # the weights that the papers' code uses are v1-4; v1-5 is its longer training, and img2img's
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    steers = True
    source = "a photo of a person"
    """The prompt under which pictures are inverted; the papers caption each picture."""

    def __init__(self, options: EditorOptions | None = None) -> None:
        super().__init__(options)
        for part in (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder):
            part.requires_grad_(False)
        self.ddim = DDIM(self.pipeline, int(self.setting("steps", 50)))

    def load(self, model: str) -> Any:
        """A StableDiffusionPipeline."""
        from diffusers import StableDiffusionPipeline

        return self.fetch(StableDiffusionPipeline, model)
