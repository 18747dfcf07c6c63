"""InstructDiffusion (Geng et al., CVPR 2024): InstructPix2Pix's network, trained on more tasks.

It is published as a checkpoint of the original latent-diffusion code, a pickle. Convert it once:

    python -m modeling.diffusion_editors.instruct_diffusion CHECKPOINT TARGET [INSTRUCT_PIX2PIX]

TARGET is then the editor's model. Text encoder, VAE and scheduler are InstructPix2Pix's, from its
folder or the hub's local cache.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from modeling.diffusion_editors.instruct_pix2pix import InstructPix2Pix
from modeling.editors import EditError

UNET, EMA = "model.diffusion_model.", "model_ema."


class InstructDiffusion(InstructPix2Pix):
    """As InstructPix2Pix, with its own weights (`options.model`: a folder made by `convert`)."""

    name = "instruct_diffusion"
    model = ""
    default_guidance, default_image_guidance = 5.0, 1.25

    def load(self, model: str) -> Any:
        if not model:
            raise EditError(
                "the editor 'instruct_diffusion' has no published folder: convert its checkpoint"
                " (python -m modeling.diffusion_editors.instruct_diffusion CHECKPOINT TARGET) and"
                " give editing.models.instruct_diffusion=TARGET"
            )
        return super().load(model)


def convert(checkpoint: str | Path, target: str | Path, base: str = InstructPix2Pix.model) -> None:
    """Save a latent-diffusion checkpoint of an instructed UNet as a diffusers pipeline.

    Its averaged (EMA) weights are taken where there are any. Only tensors are unpickled
    (weights_only): a file that holds other objects could run code and is refused.
    Raises EditError that names the file.
    """
    from diffusers import StableDiffusionInstructPix2PixPipeline
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EditError(
            f"{checkpoint}: holds objects besides tensors, which could run code when loaded; it is"
            " not opened. Save its state_dict alone where you trust it, and convert that"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise EditError(f"{checkpoint}: cannot be read ({str(error).splitlines()[0]})") from error
    state = state.get("state_dict", state)
    if not any(str(key).startswith(UNET) for key in state):
        raise EditError(f"{checkpoint}: no checkpoint of latent diffusion: it lacks {UNET}*")
    try:
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
            base, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise EditError(
            f"{base}: cannot be loaded ({str(error).strip().splitlines()[0]}). Give a folder of"
            " InstructPix2Pix"
        ) from error
    averaged = any(key.startswith(EMA + "diffusion_model") for key in state)
    weights = convert_ldm_unet_checkpoint(
        {k: v for k, v in state.items() if k.startswith((UNET, EMA))},
        dict(pipeline.unet.config),
        extract_ema=averaged,
    )
    try:
        pipeline.unet.load_state_dict(weights)
    except RuntimeError as error:
        raise EditError(f"{checkpoint}: is not of {base}'s architecture ({error})") from error
    pipeline.save_pretrained(target)


def main(words: list[str]) -> int:
    if len(words) not in (2, 3):
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        convert(*words)
    except EditError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
