"""The `paper` preset has the paper's counts: asserted on the modules themselves, without memory."""

from __future__ import annotations

from math import prod

import pytest
import torch

from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.translator import Translator
from modeling.weights.codec import BlockLayout
from modeling.weights.interface import GeneratorConfig
from modeling.weights.unet1d import UNet1d
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.stages.base import discriminator_config, translator_config

CLIP = 768
"""Dimensions of CLIP ViT-L/14's text encoder."""


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(["preset=paper"])


@pytest.fixture(scope="module")
def translator(config: Config) -> Translator:
    with torch.device("meta"):
        return Translator(translator_config(config, CLIP))


def layout(config: Config, translator: Translator, size: int = 256, rule: int = 1) -> BlockLayout:
    with torch.device("meta"):
        adapted = AdaptedTranslator(
            translator.freeze_statistics(), config.lora.rank, config.lora.ranks
        )
    return BlockLayout.build(adapted.shapes, adapted.groups, rule, size)


def test_the_translator_has_7_06_million_weights(translator: Translator) -> None:
    count = sum(p.numel() for p in translator.parameters())
    assert abs(count - 7.06e6) <= 0.005 * 7.06e6


def test_an_adapter_is_854_blocks_of_256(config: Config, translator: Translator) -> None:
    made = layout(config, translator, config.weights.block_size)
    assert config.weights.block_size == 256
    assert config.weights.grouping == 1
    assert made.n_blocks == 854
    # padding is less than 2 %: 0.22 M weights (Sec. 4.2)
    assert 0.215e6 < made.n_weights < 854 * 256
    assert sum(prod(s) for s in made.shapes.values()) == made.n_weights
    # smaller groups pad more (Table 3's rules), and Table 2's sizes stay near 2× and ½
    assert layout(config, translator, rule=3).n_blocks > 854
    assert 0.98 * 2 * 854 < layout(config, translator, 128).n_blocks <= 2 * 854
    assert 854 / 2 <= layout(config, translator, 512).n_blocks < 1.02 * 854 / 2


def test_the_discriminator_sees_patches_of_70(config: Config) -> None:
    with torch.device("meta"):
        network = PatchDiscriminator(discriminator_config(config))
    convs = [*network.convs, network.head]
    field = 1
    for conv in reversed(convs):
        assert isinstance(conv, torch.nn.Conv2d)
        field = (field - 1) * conv.stride[0] + conv.kernel_size[0]
    assert field == 70


def test_steps_are_the_papers_epochs(config: Config) -> None:
    train = config.images.count * 8 // 10
    assert train == 800
    assert config.gans.steps * config.gans.batch == 100 * train
    assert config.adapt.steps * config.adapt.batch == 20 * 400
    assert config.adapt.coreset == 400
    assert (config.gans.lr, config.adapt.lr) == (2e-4, 1.5e-3)
    g = config.generator
    assert (g.lr, g.weight_decay) == (1e-5, 0.01)
    assert g.batch * g.blocks_per_concept * g.workers == 512


def test_the_weight_generator_costs_what_the_papers_times_imply(config: Config) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    g = config.generator
    with torch.device("meta"):
        network = UNet1d(
            GeneratorConfig(
                kind="unet",
                block_size=256,
                n_blocks=854,
                text_dim=CLIP,
                width=g.width,
                depth=g.depth,
                heads=g.heads,
                channels=tuple(g.channels),
            )
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(
                torch.empty(1, 64, 256),
                torch.zeros(1, dtype=torch.long),
                torch.arange(64),
                torch.empty(1, 77, CLIP),
                torch.ones(1, 77, dtype=torch.bool),
                torch.empty(1, CLIP),
            )
    # seconds of a call of 64 blocks, by block size: Table 2's times over its number of calls
    calls = {b: -(-854 * 256 // b // 64) for b in (128, 256, 512)}
    seconds = {b: t / calls[b] for b, t in ((128, 1.71), (256, 1.19), (512, 1.04))}
    assert list(calls.values()) == [27, 14, 7]
    a_weight = (seconds[512] - seconds[256]) / (64 * 256)
    implied = a_weight * 40e12
    assert counter.get_total_flops() / (64 * 256) == pytest.approx(implied, rel=0.1)


def test_the_concepts_are_the_papers(config: Config) -> None:
    """Sec. 5.1: 693 written, 45 of them held out, 12,441 paraphrases, 84,477 combinations."""
    llm = config.llm
    assert vars(llm.counts) == {"art": 226, "characteristic": 441, "facial": 26}
    assert vars(llm.test) == {"art": 20, "characteristic": 20, "facial": 5}
    assert vars(llm.paraphrases) == {"art": 4126, "characteristic": 8070, "facial": 245}
    assert config.concepts.source == "llm" and config.concepts.train_combinations == 84477
    assert llm.combine == [["characteristic", "art"]]
