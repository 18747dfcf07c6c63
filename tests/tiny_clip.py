"""A tiny, randomly initialised CLIP model, saved as published ones are."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny_diffusion import text_encoder_and_tokenizer


def save_clip(folder: Path) -> Path:
    """Text and vision towers of 32 dimensions, pictures of 32 pixels; returns the folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig

    text, tokenizer = text_encoder_and_tokenizer(folder / "tokenizer-files")
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(3)
    model = CLIPModel(
        CLIPConfig(
            text_config=text.config.to_dict(), vision_config=vision.to_dict(), projection_dim=16
        )
    )
    target = folder / "clip"
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(target)
    return target
