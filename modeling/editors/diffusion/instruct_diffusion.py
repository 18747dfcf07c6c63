"""InstructDiffusion (Geng et al., CVPR 2024): InstructPix2Pix's architecture, for more tasks.

It is published as a checkpoint of the original latent-diffusion code, a pickle. Convert it once:

    python -m modeling.editors.diffusion.instruct_diffusion CHECKPOINT TARGET [INSTRUCT_PIX2PIX]

TARGET is then the editor's model. Text encoder, VAE and scheduler are InstructPix2Pix's, from its
folder or the hub's local cache: both start from Stable Diffusion 1.5 and train the UNet alone.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from modeling.editors.diffusion.instruct_pix2pix import InstructPix2Pix
from modeling.editors.diffusion.loading import check_folder
from modeling.editors.interface import EditError
from modeling.reasons import one_line

UNET, EMA = "model.diffusion_model.", "model_ema."


class InstructDiffusionPipeline(StableDiffusionInstructPix2PixPipeline):
    """The third of the three branches has the text without the picture; InstructPix2Pix's neither.

    With ε_c of text and picture, ε_i of the picture and ε_t of the text, and the guidances s of
    text and image, the authors' sampler (their edit_cli.py) takes
    (ε_i + ε_t) / 2 + s_text·(ε_c − ε_i) + s_image·(ε_c − ε_t), which is InstructPix2Pix's formula
    ε_t + a·(ε_c − ε_i) + b·(ε_i − ε_t) with a = s_text + s_image, b = s_image + 1/2.
    """

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # diffusers imports lazily: a type checker sees a placeholder class without methods
        parent: Any = super()
        text, null, _ = parent._encode_prompt(*args, **kwargs).chunk(3)
        return torch.cat([text, null, text])


class InstructDiffusion(InstructPix2Pix):
    """`options.model`: a folder made by `convert`. See InstructDiffusionPipeline."""

    name = "instruct_diffusion"
    model = ""
    default_guidance, default_image_guidance = 5.0, 1.25

    def load(self, model: str) -> Any:
        if not model:
            raise EditError(
                "the editor 'instruct_diffusion' has no published folder: convert its checkpoint"
                " (python -m modeling.editors.diffusion.instruct_diffusion CHECKPOINT TARGET) and"
                " give editing.models.instruct_diffusion=TARGET"
            )
        return super().load(model)

    def kind(self) -> Any:
        return InstructDiffusionPipeline

    def scales(self) -> tuple[float, float]:
        text, image = super().scales()
        return text + image, image + 0.5


def convert(checkpoint: str | Path, target: str | Path, base: str = InstructPix2Pix.model) -> None:
    """Save a latent-diffusion checkpoint of an instructed UNet as a diffusers pipeline.

    Its averaged (EMA) weights are taken where there are any. Only tensors are unpickled
    (weights_only): a file that holds other objects could run code and is refused.
    Raises EditError that names the file.
    """
    target = Path(target)
    if target.exists():
        raise EditError(f"{target}: is there already. Give a folder that is not, or remove it")
    weights = unet_weights(_read(checkpoint), str(checkpoint))
    try:
        check_folder(base)
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
            base, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # damaged folders raise whatever their part's loader does
        raise EditError(
            f"{base}: cannot be loaded ({one_line(error)}). Give a folder of InstructPix2Pix"
        ) from error
    try:
        converted = convert_ldm_unet_checkpoint(weights, dict(pipeline.unet.config))
        pipeline.unet.load_state_dict(converted)
    except (RuntimeError, KeyError) as error:
        raise EditError(
            f"{checkpoint}: is not of {base}'s architecture ({one_line(error)[:200]})"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as part:
        pipeline.save_pretrained(f"{part}/model")
        os.rename(f"{part}/model", target)


def _read(checkpoint: str | Path) -> Mapping[str, Any]:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EditError(
            f"{checkpoint}: holds objects besides tensors, which could run code when loaded, or is"
            " damaged; it is not opened. Where you trust it, save its state_dict alone"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise EditError(f"{checkpoint}: cannot be read ({one_line(error)})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return state if isinstance(state, dict) else {}


def unet_weights(state: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """The UNet's weights in a latent-diffusion state, averaged ones where there are any.

    state: "model.diffusion_model.a.b" → weight, with "model_ema.diffusion_modelab" → its average.
    Raises EditError that names the file: without such keys, or where some averages are missing.
    """
    keys = [key for key in state if str(key).startswith(UNET)]
    if not keys:
        raise EditError(f"{name}: no checkpoint of latent diffusion: it lacks {UNET}*")
    averages = {key: EMA + key.removeprefix("model.").replace(".", "") for key in keys}
    missing = [key for key, average in averages.items() if average not in state]
    if len(missing) == len(keys):
        return {key: state[key] for key in keys}
    if missing:
        raise EditError(f"{name}: {len(missing)} averages are missing, such as of {missing[0]}")
    return {key: state[average] for key, average in averages.items()}


def main(words: list[str]) -> int:
    """Convert as the command line says; returns the exit status."""
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
