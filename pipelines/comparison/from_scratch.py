"""The from-scratch baselines of Table 1, as a configuration describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from modeling.baselines.comodgan import CoModGanConfig
from modeling.baselines.comodgan_training import CoModGanRecipe, CoModGanTraining
from modeling.baselines.pix2pix_training import Pix2PixConfig, Pix2PixTraining
from modeling.baselines.recipe import ScratchRecipe
from modeling.baselines.scratch_training import ScratchTraining
from modeling.settings import taken
from modeling.targets.shapes import DiscriminatorConfig, ResNetGeneratorConfig
from pipelines.config.checks import check_baseline
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import CoModGan, Pix2Pix


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
        return Pix2PixTraining(shape, taken(ScratchRecipe, keys), source, edited, seed, device)
    recipe = taken(ScratchRecipe, config.comodgan)
    own = comodgan_recipe(config.comodgan, config.images.size)
    return CoModGanTraining(own, recipe, source, edited, seed, device)


def pix2pix_config(keys: Pix2Pix) -> Pix2PixConfig:
    return Pix2PixConfig(
        taken(ResNetGeneratorConfig, keys),
        DiscriminatorConfig(keys.discriminator_width, keys.discriminator_layers, norm="batch"),
        keys.norm,
    )


def comodgan_recipe(keys: CoModGan, size: int) -> CoModGanRecipe:
    """size: of the images, in pixels."""
    return taken(CoModGanRecipe, keys, network=taken(CoModGanConfig, keys, size=size))
