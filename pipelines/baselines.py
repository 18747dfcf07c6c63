"""The from-scratch baselines of Table 1, as a configuration describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from modeling.discriminator import DiscriminatorConfig
from modeling.pix2pix_training import Pix2PixConfig, Pix2PixTraining
from modeling.resnet_generator import ResNetGeneratorConfig
from modeling.scratch_training import ScratchRecipe, ScratchTraining
from pipelines.config import Config, Pix2Pix, Scratch

BASELINES = ("pix2pix",)


def make_baseline(
    config: Config,
    method: str,
    source: Tensor,
    edited: Tensor,
    seed: int,
    device: torch.device | str = "cpu",
) -> ScratchTraining:
    """Untrained; source and edited are uint8 [M, 3, H, W]. ValueError for another method.

    With tensors and device `meta` it needs no memory and gives weights and FLOPs alone.
    """
    if method == "pix2pix":
        keys = config.pix2pix
        recipe = scratch_recipe(keys)
        return Pix2PixTraining(pix2pix_config(keys), recipe, source, edited, seed, device)
    raise ValueError(f"{method!r} is no from-scratch baseline; there are {', '.join(BASELINES)}")


def scratch_recipe(keys: Scratch) -> ScratchRecipe:
    return ScratchRecipe(
        epochs=keys.epochs,
        batch=keys.batch,
        lr=keys.lr,
        discriminator_lr=keys.discriminator_lr,
        l1_weight=keys.l1_weight,
        gan_weight=keys.gan_weight,
        constant=keys.constant,
        jitter=keys.jitter,
        flips=keys.flips,
    )


def pix2pix_config(keys: Pix2Pix) -> Pix2PixConfig:
    return Pix2PixConfig(
        ResNetGeneratorConfig(
            width=keys.width,
            blocks=keys.blocks,
            downs=keys.downs,
            dropout=keys.dropout,
            norm=keys.norm,
        ),
        DiscriminatorConfig(keys.discriminator_width, keys.discriminator_layers, norm="batch"),
    )
