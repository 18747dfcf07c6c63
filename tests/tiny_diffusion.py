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


def _parts(folder: Path, levels: int = 2, in_channels: int = 4) -> dict[str, Any]:
    encoder, tokenizer = text_encoder_and_tokenizer(folder / "tokenizer-files")
    return {
        "vae": vae(levels),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "unet": unet(in_channels),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def instruct_pix2pix(folder: Path) -> Path:
    """Save a tiny StableDiffusionInstructPix2PixPipeline; returns its folder."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    target = folder / "instruct-pix2pix"
    parts = _parts(folder, in_channels=8)
    StableDiffusionInstructPix2PixPipeline(**parts).save_pretrained(target)
    return target


def controlnet(folder: Path) -> Path:
    """Save a tiny ControlNet for `unet()`; returns its folder."""
    from diffusers import ControlNetModel

    target = folder / "controlnet"
    torch.manual_seed(4)
    network = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(16, 16))
    # zero at the start: the edges would do nothing
    torch.nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.1)
    for parameter in network.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(target)
    return target


def sdxl(folder: Path) -> Path:
    """Save a tiny StableDiffusionXLPipeline, as SDXL-Turbo is one; returns its folder."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    parts = _parts(folder)
    torch.manual_seed(5)
    config = CLIPTextConfig(**parts["text_encoder"].config.to_dict() | {"projection_dim": 32})
    second = CLIPTextModelWithProjection(config).eval()
    shape = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")} | {
        "cross_attention_dim": 64,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }
    target = folder / "sdxl"
    StableDiffusionXLPipeline(
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        text_encoder_2=second,
        tokenizer=parts["tokenizer"],
        tokenizer_2=parts["tokenizer"],
        unet=UNet2DConditionModel.from_config(shape).eval(),
        scheduler=parts["scheduler"],
        add_watermarker=False,
    ).save_pretrained(target)
    return target


def stable_diffusion(folder: Path, levels: int = 2) -> Path:
    """Save a tiny StableDiffusionPipeline, without safety checker; returns its folder."""
    from diffusers import StableDiffusionPipeline

    target = folder / "stable-diffusion"
    StableDiffusionPipeline(**_parts(folder, levels)).save_pretrained(target)
    return target


def lora(folder: Path, in_channels: int = 4) -> Path:
    """Save LoRA weights of `unet()`'s attention, large enough to be seen; returns the file."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    network = unet(in_channels)
    network.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    torch.manual_seed(6)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    StableDiffusionPipeline.save_lora_weights(folder / "lora", unet_lora_layers=state)
    return folder / "lora" / "pytorch_lora_weights.safetensors"


def flux2_klein(folder: Path) -> Path:
    """Save a tiny Flux2KleinPipeline; returns its folder."""
    import diffusers
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], extra_special_tokens=ends[1:])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    torch.manual_seed(5)
    width = 16
    language = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=28,  # the pipeline reads the ninth, the 18th and the 27th
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    image_latents = diffusers.AutoencoderKLFlux2(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
        mid_block_add_attention=False,
    )
    network = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * width,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    target = folder / "flux2-klein"
    diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=image_latents.eval(),
        text_encoder=Qwen3ForCausalLM(language).eval(),
        tokenizer=tokenizer,
        transformer=network.eval(),
        is_distilled=True,
    ).save_pretrained(target)
    return target


def flux(folder: Path, kontext: bool = False) -> Path:
    """Save a tiny FluxPipeline, or FluxKontextPipeline; returns its folder."""
    import diffusers
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    encoder, tokenizer = text_encoder_and_tokenizer(folder / "tokenizer-files")
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(chr(i), -3.0) for i in range(ord("a"), ord("z") + 1)]
    torch.manual_seed(5)
    t5 = T5Config(vocab_size=len(letters), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    image_latents = diffusers.AutoencoderKL(
        block_out_channels=[32, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
        shift_factor=0.1,
        scaling_factor=0.4,
    )
    network = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    kind = diffusers.FluxKontextPipeline if kontext else diffusers.FluxPipeline
    target = folder / ("flux-kontext" if kontext else "flux")
    kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=image_latents.eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=77),
        transformer=network.eval(),
    ).save_pretrained(target)
    return target
