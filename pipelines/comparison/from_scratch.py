"""The from-scratch baselines of Table 1, as a configuration describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from modeling.baselines.comodgan import CoModGanConfig
from modeling.baselines.comodgan_training import CoModGanRecipe, CoModGanTraining
from modeling.baselines.pix2pix_training import Pix2PixConfig, Pix2PixTraining
from modeling.baselines.scratch_training import ScratchRecipe, ScratchTraining
from modeling.targets.discriminator import DiscriminatorConfig
from modeling.targets.resnet_generator import ResNetGeneratorConfig
from pipelines.config.checks import check_baseline
from pipelines.config.schema import CoModGan, Config, Pix2Pix, Scratch


def make_baseline(
    config: Config,
    method: str,
    source: Tensor,
    edited: Tensor,
    seed: int,
    device: torch.device | str = "cpu",
) -> ScratchTraining:
    """Untrained; source and edited are uint8 [M, 3, H, W], of a side of config.images.size.

    With tensors and device `meta` it needs no memory and gives weights and FLOPs alone. ConfigError
    for another method, or for an images.size that the method cannot take.
    """
    check_baseline(config, method)
    if method == "pix2pix":
        keys = config.pix2pix
        shape = pix2pix_config(keys)
        return Pix2PixTraining(shape, scratch_recipe(keys), source, edited, seed, device)
    recipe = scratch_recipe(config.comodgan)
    own = comodgan_recipe(config.comodgan, config.images.size)
    return CoModGanTraining(own, recipe, source, edited, seed, device)


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
        ),
        DiscriminatorConfig(keys.discriminator_width, keys.discriminator_layers, norm="batch"),
        keys.norm,
    )


def comodgan_recipe(keys: CoModGan, size: int) -> CoModGanRecipe:
    """size: of the images, in pixels."""
    return CoModGanRecipe(
        CoModGanConfig(
            size=size,
            channel_base=keys.channel_base,
            channel_max=keys.channel_max,
            z_dim=keys.z_dim,
            w_dim=keys.w_dim,
            mapping_layers=keys.mapping_layers,
            dropout=keys.dropout,
        ),
        r1=keys.r1,
        r1_interval=keys.r1_interval,
        ema_images=keys.ema_images,
        path_length=keys.path_length,
    )
