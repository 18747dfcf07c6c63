"""Both weight generators behind their interface: shapes, independence, training, prediction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from modeling.weights.block_transformer import BlockLinear, sinusoidal_encoding
from modeling.weights.interface import GeneratorConfig, GeneratorError, TextBatch, WeightGenerator
from modeling.weights.unet1d import UNet1d
from modeling.weights.weight_generator import denoising_loss, predict_blocks, unwrap
from tests.modeling.weights.tiny_generators import (
    BOTH,
    TEXT_DIM,
    TRANSFORMER,
    UNET,
    inputs,
    make,
    text_of,
)
from tests.rounding import in_float64, rounding

# --- Eq. (2)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 33])
def test_sinusoidal_encoding_is_equation_2(d: int) -> None:
    for n in (0, 1, 5, 853):
        expected = [math.nan] * d
        for i in range((d - 1) // 2 + 1):
            angle = n / 10000 ** (2 * i / d)
            expected[2 * i] = math.sin(angle)
            if 2 * i + 1 < d:
                expected[2 * i + 1] = math.cos(angle)
        got = sinusoidal_encoding(torch.tensor(n), d)
        assert got.shape == (d,)
        # a rounding of the angle, at most n, is one of the sine, which is at most 1
        bound = rounding(2, torch.tensor(n + 1.0))
        torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=bound)


def test_block_encodings_differ_between_all_blocks_of_the_paper() -> None:
    codes = sinusoidal_encoding(torch.arange(854), 64)
    distances = torch.cdist(codes, codes) + 10 * torch.eye(854)
    assert distances.min() > 0.1


# --- shapes and conditioning


@pytest.mark.parametrize("fold", [2, 8])
def test_folded_unet_keeps_every_weight_at_its_place(fold: int) -> None:
    model = make(UNET, n_blocks=2, block_size=8 * fold, channels=(8, 16), fold=fold)
    noisy, t, blocks = inputs(model)
    text = text_of(3)
    assert model(noisy, t, blocks, *text).shape == noisy.shape
    # with its first and last convolution alone, a weight of place 1 moves those of places 0 … 3
    model.down, model.up, model.middle = (torch.nn.ModuleList() for _ in range(3))
    model.norm_out = torch.nn.Identity()
    with torch.no_grad():
        model.conv_out.weight.normal_(generator=torch.Generator().manual_seed(0))
    changed = noisy.clone()
    changed[..., fold] += 1.0
    moved = (model(changed, t, blocks, *text) - model(noisy, t, blocks, *text)).abs() > 0
    assert moved[:, :, : 4 * fold].any() and not moved[:, :, 4 * fold :].any()


@pytest.mark.parametrize("n_blocks, block_size", [(1, 8), (5, 13), (3, 17), (2, 31)])
@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 16, 16, 8)])
def test_unet_shapes_for_odd_sizes(
    n_blocks: int, block_size: int, channels: tuple[int, ...]
) -> None:
    model = make(UNET, n_blocks=n_blocks, block_size=block_size, channels=channels, depth=2)
    noisy, t, blocks = inputs(model)
    assert model(noisy, t, blocks, *text_of(3)).shape == noisy.shape
    subset = blocks[-1:]
    assert model(noisy[:, -1:], t, subset, *text_of(3)).shape == (3, 1, block_size)


@pytest.mark.parametrize("per_block_input", [False, True])
@pytest.mark.parametrize("n_blocks, block_size", [(1, 8), (5, 13), (7, 1)])
def test_transformer_shapes_for_odd_sizes(
    n_blocks: int, block_size: int, per_block_input: bool
) -> None:
    model = make(
        TRANSFORMER, n_blocks=n_blocks, block_size=block_size, per_block_input=per_block_input
    )
    noisy, t, blocks = inputs(model)
    assert model(noisy, t, blocks, *text_of(3)).shape == noisy.shape


@BOTH
def test_a_fresh_model_outputs_zero(options: dict[str, Any]) -> None:
    model = make(options, awake=False)
    assert not model(*inputs(model), *text_of(3)).any()


@BOTH
def test_output_depends_on_noise_time_block_and_words(options: dict[str, Any]) -> None:
    model = make(options)
    noisy, t, blocks = inputs(model)
    text = text_of(3)
    first = model(noisy, t, blocks, *text)
    flipped = text._replace(tokens=text.tokens.flip(-1))
    others = {
        "noise": model(noisy + 1, t, blocks, *text),
        "time": model(noisy, (t + 300) % 1000, blocks, *text),
        "words": model(noisy, t, blocks, *flipped),
        "block": model(noisy, t, blocks.flip(0), *text),
    }
    for name, other in others.items():
        assert (first - other).abs().amax() > 1e-3, name


def test_only_the_transformer_reads_the_pooled_text() -> None:
    for options, reads in ((TRANSFORMER, True), (UNET, False)):
        model = make(options)
        text = text_of(3)
        args = inputs(model)
        changed = model(*args, *text._replace(pooled=text.pooled.flip(-1)))
        assert torch.equal(model(*args, *text), changed) != reads


@BOTH
@in_float64()
def test_padding_tokens_do_not_change_the_output(options: dict[str, Any]) -> None:
    model = make(options)
    args = inputs(model)
    text = text_of(3)
    first = model(*args, *text)
    garbage = torch.where(text.mask[..., None], text.tokens, torch.full_like(text.tokens, 1e4))
    torch.testing.assert_close(model(*args, *text._replace(tokens=garbage)), first)
    longer = TextBatch(
        torch.cat([text.tokens, torch.ones(3, 4, TEXT_DIM)], dim=1),
        torch.cat([text.mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
        text.pooled,
    )
    torch.testing.assert_close(model(*args, *longer), first)
    assert (model(*args, *text._replace(mask=~text.mask)) - first).abs().amax() > 1e-3


@BOTH
@in_float64()
def test_an_empty_text_is_finite(options: dict[str, Any]) -> None:
    model = make(options)
    text = text_of(3)
    args = inputs(model)
    hidden = model(*args, *text._replace(mask=torch.zeros_like(text.mask)))
    none = model(*args, text.tokens[:, :0], text.mask[:, :0], text.pooled)
    assert hidden.isfinite().all()
    torch.testing.assert_close(hidden, none)


@BOTH
@in_float64()
def test_concepts_of_a_batch_do_not_mix(options: dict[str, Any]) -> None:
    model = make(options)
    noisy, t, blocks = inputs(model)
    text = text_of(3)
    alone = model(noisy[1:2], t[1:2], blocks, *(x[1:2] for x in text))
    together = model(noisy, t, blocks, *text)[1:2]
    torch.testing.assert_close(alone, together)


@in_float64()
def test_a_unet_block_does_not_depend_on_the_other_blocks() -> None:
    model = make(UNET)
    noisy, t, blocks = inputs(model)
    text = text_of(3)
    full = model(noisy, t, blocks, *text)
    chosen = torch.tensor([4, 1])
    part = model(noisy[:, chosen], t, chosen, *text)
    torch.testing.assert_close(part, full[:, chosen])
    changed = noisy.clone()
    changed[:, 0] += 5
    after = model(changed, t, blocks, *text)
    torch.testing.assert_close(after[:, 1:], full[:, 1:])
    assert (after[:, 0] - full[:, 0]).abs().amax() > 1e-3


@in_float64()
def test_without_its_index_every_block_is_the_same_to_the_unet() -> None:
    t, blocks = torch.tensor([900]), torch.arange(6)
    told = make(UNET)(torch.ones(1, 6, 16), t, blocks, *text_of(1))
    untold = make(UNET, block_conditioning="none")(torch.ones(1, 6, 16), t, blocks, *text_of(1))
    assert (told - told[:, :1]).abs().amax() > 1e-3
    torch.testing.assert_close(untold, untold[:, :1].expand_as(untold))


@in_float64()
def test_the_sequential_unet_reads_the_block_before() -> None:
    model = make(UNET, block_conditioning="previous")
    schedule, text = model.config.noise_schedule(), text_of(2)
    noise = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
    real = torch.ones(6, 16, dtype=torch.bool)
    real[2, 11:] = False
    got = predict_blocks(model, schedule, text, 990, noise=noise, mask_w=real)
    # with what it predicted as the blocks before, one call says the same of all blocks
    before = torch.cat([torch.zeros(2, 1, 16), (got * real)[:, :-1]], dim=1)
    t, blocks = torch.tensor([990, 990]), torch.arange(6)
    output = model(noise, t, blocks, *text, before)
    torch.testing.assert_close(schedule.recover("x0", output, noise, 990).x0, got)
    other = model(noise, t, blocks, *text, before.flip(1))
    assert (other - output).abs().amax() > 1e-3
    joint = make(TRANSFORMER)
    for call in (
        lambda: model(noise, t, blocks, *text),
        lambda: joint(noise, t, blocks, *text, got),
    ):
        with pytest.raises(GeneratorError, match="if and only if it is a UNet's 'previous'"):
            call()
    for options in ({"method": "ddim", "mask_w": real}, {}):
        with pytest.raises(GeneratorError, match="needs mask_w, and predicts by one_step"):
            predict_blocks(model, schedule, text, 990, noise=noise, **options)


def test_a_transformer_block_sees_the_other_blocks() -> None:
    model = make(TRANSFORMER)
    noisy, t, blocks = inputs(model)
    changed = noisy.clone()
    changed[:, 0] += torch.randn_like(changed[:, 0]) * 5
    full, after = (model(x, t, blocks, *text_of(3)) for x in (noisy, changed))
    assert ((full - after)[:, 1:].abs().amax(dim=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize("per_block_input", [False, True])
@in_float64()
def test_permuting_blocks_with_their_indices_permutes_the_joint_output(
    per_block_input: bool,
) -> None:
    model = make(TRANSFORMER, per_block_input=per_block_input)
    noisy, t, blocks = inputs(model)
    text = text_of(3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    full = model(noisy, t, blocks, *text)
    torch.testing.assert_close(model(noisy[:, order], t, order, *text), full[:, order])
    # without their indices the blocks are other blocks
    assert (model(noisy[:, order], t, blocks, *text) - full[:, order]).abs().amax() > 1e-2


@in_float64()
def test_block_linear_is_one_linear_layer_per_block() -> None:
    torch.manual_seed(0)
    layer, x = BlockLinear(4, 5, 3), torch.randn(2, 4, 5)
    expected = torch.stack([x[:, n] @ layer.weight[n] + layer.bias[n] for n in range(4)], dim=1)
    torch.testing.assert_close(layer(x), expected)


@in_float64()
def test_the_unet_attends_as_if_the_text_were_repeated_for_each_block() -> None:
    model = make(UNET)
    assert isinstance(model, UNet1d)
    noisy, t, blocks = inputs(model, concepts=2)
    text = text_of(2)
    got = model(noisy, t, blocks, *text)
    for k in range(len(blocks)):
        alone = model(noisy[:, k : k + 1], t, blocks[k : k + 1], *text)
        torch.testing.assert_close(got[:, k : k + 1], alone)


@pytest.mark.parametrize("place_embedding", [False, True])
def test_only_the_place_embedding_tells_the_unet_where_in_a_block_it_is(
    place_embedding: bool,
) -> None:
    model = make(UNET, block_size=64, channels=(8,), place_embedding=place_embedding)
    t, blocks = torch.tensor([900]), torch.arange(6)
    out = model(torch.ones(1, 6, 64), t, blocks, *text_of(1))
    inner = out[..., 24:40]  # beyond the reach of the zero padding at the ends
    assert (inner.std(dim=-1) > 1e-3).all() == place_embedding


@BOTH
@in_float64()
def test_traces_without_graph_breaks(options: dict[str, Any]) -> None:
    model = make(options)
    args = (*inputs(model), *text_of(3))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*args), model(*args))
    assert isinstance(compiled, nn.Module) and unwrap(compiled) is model


@BOTH
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of CPU attention
@in_float64()
def test_works_under_vmap_and_grad(options: dict[str, Any]) -> None:
    model = make(options)
    noisy, t, blocks = inputs(model)
    params = {k: v.detach() for k, v in model.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, t: Tensor, *text: Tensor) -> Tensor:
        args = (x[None], t[None], blocks, *(v[None] for v in text))
        return functional_call(model, params, args).square().mean()

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0, 0))(params, noisy, t, *text_of(3))
    model(noisy, t, blocks, *text_of(3)).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        torch.testing.assert_close(each[name].mean(0), p.grad, msg=name)


def test_wrong_shapes_are_refused() -> None:
    model = make(TRANSFORMER)
    noisy, t, blocks = inputs(model)
    with pytest.raises(GeneratorError, match="all 6 blocks"):
        model(noisy[:, :2], t, blocks[:2], *text_of(3))
    with pytest.raises(GeneratorError, match="expected"):
        model(noisy[..., :-1], t, blocks, *text_of(3))
    with pytest.raises(GeneratorError, match="expected"):
        make(UNET)(noisy, t, blocks[:2], *text_of(3))


# --- training


def learn(options: dict[str, Any], steps: int, lr: float) -> tuple[Any, ...]:
    """Overfit 4 texts → blocks; returns model, schedule, data and losses before and after."""
    model = make(options, awake=False).train()
    schedule = model.config.noise_schedule()
    g = torch.Generator().manual_seed(2)
    text = text_of(4)
    shape = (4, model.config.n_blocks, model.config.block_size)
    phase = torch.randn(*shape[:2], 1, generator=g) * 3
    x0 = 1.4 * torch.sin(torch.arange(shape[2]) / 3 + phase)
    valid = torch.ones(shape[1:], dtype=torch.bool)
    blocks = torch.arange(shape[1])

    def loss() -> Tensor:
        t = torch.randint(800, 1000, (4,), generator=g)
        eps = torch.randn(shape, generator=g)
        return denoising_loss(model, schedule, x0, blocks, valid, text, t, eps)

    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    start = loss().item()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimiser.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        end = sum(loss().item() for _ in range(4)) / 4
    return model, schedule, text, x0, start, end


@pytest.mark.parametrize(
    "options, steps, lr, factor",
    # the UNet after 60 steps: 2.5 to 18, by the roundings of a processor; after 120 over 45
    [(TRANSFORMER, 60, 4e-3, 20), (UNET | {"width": 64}, 120, 1e-2, 10)],
    ids=["transformer", "unet"],
)
def test_training_learns_the_blocks_of_each_text(
    options: dict[str, Any], steps: int, lr: float, factor: float
) -> None:
    fresh = dict(make(options, awake=False).named_parameters())
    model, schedule, text, x0, start, end = learn(options, steps, lr)
    assert end < start / factor
    still = [n for n, p in model.named_parameters() if torch.equal(p, fresh[n])]
    assert not still
    # and the words, not the noise, carry it: predictions from fresh noise match their own concept
    predicted = predict_blocks(model, schedule, text, 950, seed=3)
    distance = (predicted[:, None] - x0[None]).square().mean(dim=(2, 3))
    assert (distance.argmin(dim=1) == torch.arange(4)).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_the_loss_of_a_perfect_network_is_zero_and_padding_does_not_count(prediction: str) -> None:
    x0, eps = torch.randn(2, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(6, 16, dtype=torch.bool)
    valid[-1, 9:] = False
    t = torch.tensor([900, 30])

    class Perfect(WeightGenerator):
        joint = True
        error = 0.0

        def forward(self, *args: Tensor) -> Tensor:
            output = schedule.target(self.config.prediction, x0, eps, t)
            return output + torch.where(valid, self.error, 1e3)

    model = Perfect(GeneratorConfig(**(TRANSFORMER | {"prediction": prediction})))
    schedule = model.config.noise_schedule()
    blocks = torch.arange(6)
    for model.error, expected in ((0.0, 0.0), (0.5, 0.25)):
        got = denoising_loss(model, schedule, x0, blocks, valid, text_of(2), t, eps)
        # the error of a weight is off by a rounding of its target, and counts at most once
        assert got.shape == () and got.item() == pytest.approx(expected, abs=rounding(2, x0, eps))


@BOTH
def test_dropout_is_active_in_training_only(options: dict[str, Any]) -> None:
    model = make(options, dropout=0.5)
    args = (*inputs(model), *text_of(3))
    assert torch.equal(model(*args), model(*args))
    model.train()
    assert not torch.equal(model(*args), model(*args))


# --- prediction


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("method", ["one_step", "ddim"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_perfect_network_predicts_the_blocks_exactly(
    prediction: str, method: Any, joint: bool
) -> None:
    weights = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)).double()
    calls = []

    class Perfect(WeightGenerator):
        def forward(self, noisy: Tensor, t: Tensor, blocks: Tensor, *text: Tensor) -> Tensor:
            calls.append(len(blocks))
            x0, at = weights[:, blocks], (t[:, None, None])
            eps = (noisy - schedule.alpha(at) * x0) / schedule.sigma(at)
            return schedule.target(self.config.prediction, x0, eps, t)

    Perfect.joint = joint
    model = Perfect(GeneratorConfig(**(TRANSFORMER | {"prediction": prediction})))
    schedule = model.config.noise_schedule()
    noise = torch.randn(2, 6, 16, dtype=torch.float64)
    got = predict_blocks(
        model, schedule, text_of(2), 980, noise=noise, method=method, ddim_steps=3, chunk=4
    )
    torch.testing.assert_close(got, weights)
    steps = 1 if method == "one_step" else 3
    assert calls == ([6] if joint else [4, 2]) * steps


@BOTH
@pytest.mark.parametrize("method", ["one_step", "ddim"])
@in_float64()
def test_prediction_is_deterministic_and_independent_of_batch_and_chunk(
    options: dict[str, Any], method: Any
) -> None:
    model = make(options, dropout=0.3).train()
    schedule, text = model.config.noise_schedule(), text_of(3)
    kwargs: dict[str, Any] = {"method": method, "ddim_steps": 3}
    first = predict_blocks(model, schedule, text, 950, seed=5, **kwargs)
    assert first.shape == (3, 6, 16) and not first.requires_grad
    assert model.training  # its mode was put back
    torch.manual_seed(77)
    assert torch.equal(predict_blocks(model, schedule, text, 950, seed=5, **kwargs), first)
    assert not torch.equal(predict_blocks(model, schedule, text, 950, seed=6, **kwargs), first)
    one = TextBatch(*(x[1:2] for x in text))
    alone = predict_blocks(model, schedule, one, 950, seed=5, chunk=4, **kwargs)
    torch.testing.assert_close(alone, first[1:2])


@BOTH
def test_gradients_flow_through_a_differentiable_prediction(options: dict[str, Any]) -> None:
    model = make(options)
    schedule = model.config.noise_schedule()
    blocks = predict_blocks(model, schedule, text_of(2), 999, seed=0, differentiable=True)
    blocks.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bad_prediction_calls_are_refused() -> None:
    model = make(TRANSFORMER)
    schedule, text = model.config.noise_schedule(), text_of(2)
    for kwargs, message in (
        ({}, "either seed or noise"),
        ({"seed": 0, "noise": torch.zeros(2, 6, 16)}, "either seed or noise"),
        ({"noise": torch.zeros(1, 6, 16)}, "expected"),
        ({"seed": 0, "method": "ddpm"}, "method"),
        ({"seed": 0, "chunk": 0}, "chunk"),
    ):
        with pytest.raises(GeneratorError, match=message):
            predict_blocks(model, schedule, text, 950, **kwargs)
    with pytest.raises(ValueError, match="outside"):
        predict_blocks(model, schedule, text, 1000, seed=0)
    with pytest.raises(GeneratorError, match="not a weight generator"):
        predict_blocks(nn.Linear(1, 1), schedule, text, 950, seed=0)
