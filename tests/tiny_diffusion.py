"""Tiny, randomly initialised diffusers pipelines, saved as published ones are.

The shapes are those of diffusers' own fast tests: a 32-channel UNet, a VAE of one halving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def text_encoder_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    """A CLIP text encoder of 32 dimensions and a byte-level CLIP tokenizer, made on the spot."""
    import json

    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    units = list(bytes_to_unicode().values())
    words = [*units, *(u + "</w>" for u in units), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    return CLIPTextModel(config).eval(), tokenizer


def unet(in_channels: int = 4) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
    ).eval()


def vae(levels: int = 2) -> Any:
    """Latents 2^(levels - 1) times smaller than pictures."""
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=[32] * levels,
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    ).eval()


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def stable_diffusion(folder: Path, levels: int = 2) -> Path:
    """Save a tiny StableDiffusionPipeline, without safety checker; returns its folder."""
    from diffusers import StableDiffusionPipeline

    encoder, tokenizer = text_encoder_and_tokenizer(folder / "tokenizer-files")
    target = folder / "stable-diffusion"
    StableDiffusionPipeline(
        vae=vae(levels),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(target)
    return target
