"""FLOPs counted without data: against formulas, real tensors, and published figures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeling.cost import ANCHORS, GeneratorCost, TranslatorCost, refiner_pass
from modeling.editors.diffusion.costs import ARCHITECTURES, counted, evaluation_cost
from modeling.flops import count_flops
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.shapes import DiscriminatorConfig, TranslatorConfig
from modeling.weights.gradient_basis import GradientBasis
from modeling.weights.interface import GeneratorConfig
from modeling.weights.refiner import Refiner, RefinerConfig
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.plan.shapes import text_dim
from pipelines.stages.base import discriminator_config, translator_config

SHAPE = TranslatorConfig(width=8, downs=1, edge_kernel=3, heads=2, text_dim=16)
CRITIC = DiscriminatorConfig(8, 1)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(4, 9), st.booleans()
)
def test_a_convolution_costs_two_flops_a_multiplication(
    c_in: int, c_out: int, kernel: int, side: int, backward: bool
) -> None:
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2).to("meta")
    x = torch.empty(1, c_in, side, side, device="meta", requires_grad=True)
    expected = 2 * c_in * c_out * kernel**2 * side**2
    if backward:
        # the gradients of the input and of the weights cost as much as the layer, each
        assert count_flops(lambda: layer(x).sum().backward()) == 3 * expected
    else:
        assert count_flops(lambda: layer(x)) == expected


def test_a_translator_costs_on_the_meta_device_what_it_costs_on_a_cpu() -> None:
    network = frozen_target(SHAPE)
    x, tokens = torch.zeros(2, 3, 32, 32), torch.zeros(1, 12, 16)
    mask = torch.ones(1, 12, dtype=torch.bool)
    real = count_flops(lambda: network(x, tokens, mask)) / 2
    cost = TranslatorCost(SHAPE, CRITIC, 32, rank=1)
    # W + B·A is what an adapter adds, once a batch
    assert real < cost.forward(2) < 1.02 * real
    assert cost.weights == sum(p.numel() for p in network.parameters())
    assert cost.critic_weights == sum(p.numel() for p in PatchDiscriminator(CRITIC).parameters())


def test_a_refiner_costs_on_the_meta_device_what_it_costs_on_a_cpu() -> None:
    config = RefinerConfig(block_size=8, n_blocks=5, text_dim=6, width=16, depth=2, heads=2)
    basis = GradientBasis(torch.eye(8).expand(5, 8, 8), count=0, layout_digest="")
    model, blocks = Refiner(config, basis), torch.zeros(1, 5, 8)
    tokens, mask = torch.zeros(1, 12, 6), torch.ones(1, 12, dtype=torch.bool)
    call = (blocks, blocks, torch.ones(1), 0, 1, tokens, mask, torch.zeros(1, 6))
    with torch.no_grad():
        real = count_flops(lambda: model(*call))
    assert refiner_pass(config) == real
    # at least both rotations and the projections of each block
    assert real > 2 * 5 * (2 * 8 * 8 + (2 * 8 + 3) * 16 + 16 * 8)


def test_what_a_step_costs() -> None:
    cost = TranslatorCost(SHAPE, CRITIC, 32, rank=1)
    plain, adversarial = cost.adapter_step(4, gan=False), cost.adapter_step(4, gan=True)
    assert 2.9 * cost.forward(4) < plain < 3.1 * cost.forward(4)
    x = torch.empty(1, 3, 32, 32, device="meta")
    with torch.no_grad():
        judged = count_flops(lambda: cost.critic(x, x))
    # forward and backward on true and drawn pictures, then once more for the translator
    assert 7 * judged < adversarial - plain < 9 * judged
    assert cost.base_step(4, gan=False) == pytest.approx(plain, rel=0.03)
    four_times = TranslatorCost(SHAPE, CRITIC, 64, rank=1).forward()
    assert 3.9 * cost.forward() < four_times  # and self-attention 16 times
    assert TranslatorCost(SHAPE, CRITIC, 32, rank=4).forward() > cost.forward()


@pytest.mark.parametrize("kind", ["transformer", "unet"])
def test_a_weight_generator(kind: str) -> None:
    config = GeneratorConfig.from_dict(
        {
            "kind": kind,
            "block_size": 32,
            "n_blocks": 10,
            "text_dim": 16,
            "width": 32,
            "depth": 1,
            "heads": 2,
            "channels": (16, 32),
        }
    )
    cost = GeneratorCost(config)
    assert 2.7 < cost.step(10) / cost.forward(10) < 3.1
    assert cost.weights == sum(p.numel() for p in cost.model.parameters())
    if kind == "transformer":
        # a token goes through 1 layer of 4 + 2 (queries and outputs of the cross-attention) + 8
        # matrices of width², and two of width × b
        matrices = 2 * (14 * 32**2 + 2 * 32 * 32)
        assert 1.0 < cost.forward(10) / matrices < 1.6  # and attention, text, modulation


def test_stable_diffusion_is_the_published_one() -> None:
    cost = evaluation_cost("sd15", 512)
    assert cost.denoiser == pytest.approx(0.803e12, rel=0.01)
    assert 2 * cost.denoiser < cost.gradient < 2.3 * cost.denoiser
    assert 0.3 < cost.controlnet / cost.denoiser < 0.4  # the UNet's encoder
    assert cost.encode < cost.decode < 4 * cost.denoiser


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_of_costs_is_what_diffusers_networks_cost(architecture: str) -> None:
    """At a side that it was not made from; the polynomial is exact."""
    made, told = counted(architecture, 320), evaluation_cost(architecture, 320)
    assert vars(told) == pytest.approx(vars(made), rel=1e-6)


def test_the_paper_s_times_as_rates() -> None:
    rates = {name: round(anchor.per_second) for name, anchor in ANCHORS.items()}
    assert rates == {"pix2pix": 242, "training": 202, "finetune": 190, "prediction": 718}


def test_the_assumed_utilisations_follow_from_the_paper_s_times() -> None:
    c, plan = load_config(["preset=paper"]), Config().plan
    shape = (translator_config(c, text_dim(c)), discriminator_config(c), c.images.size)
    step = TranslatorCost(*shape, c.lora.rank, c.lora.ranks).adapter_step(c.gans.batch, gan=True)
    for anchor, utilisation in (
        ("training", plan.training_utilisation),
        ("finetune", plan.finetune_utilisation),
    ):
        reached = step * ANCHORS[anchor].per_second / (plan.gpu_tflops * 1e12)
        assert reached == pytest.approx(utilisation, rel=0.03), anchor
    # 11.47 steps/s of 4 pictures, two evaluations each
    reached = 11.47 * 4 * 2 * evaluation_cost().denoiser / (plan.editor_tflops * 1e12)
    assert reached == pytest.approx(plan.editor_utilisation, rel=0.03)
