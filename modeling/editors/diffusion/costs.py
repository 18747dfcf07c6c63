"""What one evaluation of a diffusion model costs, by its architecture.

Counted on diffusers' own modules at the published shapes, no weights needed. Building them takes
seconds, so what was counted stands in costs.yaml: FLOPs are a polynomial of the number of pixels
(convolutions and projections linear, self-attention quadratic, time and text constant), exactly.

    python -m modeling.editors.diffusion.costs

counts again and writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parent / "costs.yaml"
SIDES = (256, 512, 768)
"""At which a polynomial is counted; a third degree of freedom needs no fourth side."""
UNIT = 64
"""Pixels of a side that a pixel count of 1 stands for."""
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Of Stable Diffusion 1 to XL, from their published config.json, as are the shapes below; what is
not named is diffusers' default."""
UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
KLEIN = {
    "in_channels": 128,
    "num_layers": 5,
    "num_single_layers": 20,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
"""FLUX.2 [klein] 4B's transformer."""
ARCHITECTURES = (*UNETS, "flux2_klein")
Coefficients = tuple[float, float, float]


@dataclass(frozen=True)
class EvaluationCost:
    """FLOPs for one picture; 0 = this architecture has none."""

    denoiser: float
    """One evaluation; of an editor that sees the picture as further tokens, with them."""
    gradient: float
    """One evaluation and its gradient to the input, weights frozen."""
    controlnet: float
    encode: float
    decode: float


@cache
def evaluation_cost(architecture: str = "sd15", size: int = 512) -> EvaluationCost:
    """size: side in pixels, a multiple of UNIT. KeyError for an unknown architecture."""
    pixels = (size / UNIT) ** 2
    table = yaml.safe_load(TABLE.read_text())[architecture]
    return EvaluationCost(
        **{part: a + b * pixels + c * pixels**2 for part, (a, b, c) in table.items()}
    )


def counted(architecture: str, size: int) -> EvaluationCost:
    """The same by running the networks on tensors without data."""
    calls = _klein(size) if architecture == "flux2_klein" else _unet(architecture, size)
    return EvaluationCost(
        **{
            part: _flops(calls[part], part == "gradient") if part in calls else 0.0
            for part in EvaluationCost.__annotations__
        }
    )


def _flops(call: Callable[[], object], backward: bool) -> float:
    import torch

    from modeling.flops import count_flops

    if backward:
        return count_flops(call)

    def quiet() -> None:
        with torch.no_grad():
            call()

    return count_flops(quiet)


def _unet(architecture: str, size: int) -> dict[str, Callable[[], object]]:
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    shape = UNETS[architecture]
    with torch.device("meta"):
        # Any: diffusers is untyped
        unet: Any = UNet2DConditionModel(sample_size=64, **shape)
        unet.requires_grad_(False)
        vae: Any = AutoencoderKL(**VAE, sample_size=512)
        image = torch.empty(1, 3, size, size)
        latent = torch.empty(1, 4, size // 8, size // 8)
        time, text = torch.ones(1), torch.empty(1, 77, shape["cross_attention_dim"])
        more = {}
        if architecture == "sdxl":
            pooled = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
            more = {"added_cond_kwargs": pooled}
        steered = latent.clone().requires_grad_()
    calls: dict[str, Callable[[], object]] = {
        "denoiser": lambda: unet(latent, time, text, **more),
        "encode": lambda: vae.encode(image),
        "decode": lambda: vae.decode(latent),
    }
    if architecture == "sd15":
        with torch.device("meta"):
            controlnet: Any = ControlNetModel(**shape)
        calls["controlnet"] = lambda: controlnet(latent, time, text, image)
        calls["gradient"] = lambda: unet(steered, time, text).sample.sum().backward()
    return calls


def _klein(size: int) -> dict[str, Callable[[], object]]:
    """An edit: the picture's tokens beside those of the result."""
    import torch
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    tokens, words = 2 * (size // 16) ** 2, 512
    with torch.device("meta"):
        transformer: Any = Flux2Transformer2DModel(**KLEIN)
        vae: Any = AutoencoderKLFlux2()
        image = torch.empty(1, 3, size, size)
        latent = torch.empty(1, vae.config.latent_channels, size // 8, size // 8)
        inputs = {
            "hidden_states": torch.empty(1, tokens, 128),
            "encoder_hidden_states": torch.empty(1, words, KLEIN["joint_attention_dim"]),
            "timestep": torch.ones(1),
            "img_ids": torch.zeros(1, tokens, 4),
            "txt_ids": torch.zeros(1, words, 4),
        }
    return {
        "denoiser": lambda: transformer(**inputs),
        "encode": lambda: vae.encode(image),
        "decode": lambda: vae.decode(latent),
    }


def _coefficients(values: list[float]) -> Coefficients:
    """Of the parabola through the counts at SIDES (Newton's differences), in whole FLOPs."""
    x = [(side / UNIT) ** 2 for side in SIDES]
    first = [(values[i + 1] - values[i]) / (x[i + 1] - x[i]) for i in range(2)]
    square = (first[1] - first[0]) / (x[2] - x[0])
    linear = first[0] - square * (x[0] + x[1])
    constant = values[0] - linear * x[0] - square * x[0] ** 2
    return (round(constant), round(linear), round(square))


def main() -> int:
    table = {}
    for name in ARCHITECTURES:
        costs = [vars(counted(name, side)) for side in SIDES]
        table[name] = {part: list(_coefficients([c[part] for c in costs])) for part in costs[0]}
    TABLE.write_text(yaml.safe_dump(table, sort_keys=False, default_flow_style=None))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
