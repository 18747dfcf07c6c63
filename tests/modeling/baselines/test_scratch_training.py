"""Training from scratch: both methods by one set of tests, then what each has of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modeling.baselines.comodgan import CoModGanConfig
from modeling.baselines.comodgan_training import (
    CoModGanRecipe,
    CoModGanTraining,
    path_lengths,
    r1_penalty,
)
from modeling.baselines.pix2pix_training import Pix2PixConfig, Pix2PixTraining
from modeling.baselines.recipe import ScratchRecipe
from modeling.baselines.scratch_training import ScratchTraining
from modeling.flops import META, count_flops, weights_of
from modeling.targets.adapter_training import to_uint8
from modeling.targets.shapes import DiscriminatorConfig, ResNetGeneratorConfig
from tests.rounding import in_float64, rounding

PIX2PIX = Pix2PixConfig(
    ResNetGeneratorConfig(width=8, blocks=1, downs=1, dropout=0.5),
    DiscriminatorConfig(width=4, layers=1, norm="batch"),
)
COMODGAN = CoModGanRecipe(
    CoModGanConfig(16, channel_base=128, channel_max=16, z_dim=8, w_dim=8, mapping_layers=2),
    r1_interval=2,
    path_length=2.0,
    path_interval=2,
)
RECIPE = ScratchRecipe(epochs=4, batch=2, lr=2e-3, discriminator_lr=2e-3)
METHODS = ("pix2pix", "pix2pix-zero-distilled")
each_method = pytest.mark.parametrize("method", METHODS)


def pairs(count: int = 5, size: int = 16) -> tuple[Tensor, Tensor]:
    """Smooth pictures and their negatives."""
    rng = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    source = (nn.functional.interpolate(coarse, (size, size)) * 255).to(torch.uint8)
    return source, 255 - source


def make(method: str, recipe: ScratchRecipe = RECIPE, seed: int = 0) -> ScratchTraining:
    if method == "pix2pix":
        return Pix2PixTraining(PIX2PIX, recipe, *pairs(), seed)
    return CoModGanTraining(COMODGAN, recipe, *pairs(), seed)


def comodgan(config: CoModGanRecipe, recipe: ScratchRecipe = RECIPE) -> CoModGanTraining:
    return CoModGanTraining(config, recipe, *pairs(), seed=0)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def equal(a: ScratchTraining, b: ScratchTraining) -> bool:
    """All of the state but the seconds, to the bit."""
    b.seconds = a.seconds
    return a.state() == b.state()


@each_method
def test_every_weight_of_both_networks_moves(method: str) -> None:
    training = make(method)
    before = {n: weights(getattr(training, n)) for n in training.networks}
    training.train(2)
    assert set(training.networks) >= {"generator", "discriminator"}
    for name in training.networks:
        network = getattr(training, name)
        still = [k for k, v in network.named_parameters() if torch.equal(v, before[name][k])]
        assert still == [], name
    assert (training.epoch, len(training.losses)) == (2, 2)
    assert training.seconds > 0


@each_method
def test_four_pairs_can_be_learnt_by_heart(method: str) -> None:
    recipe = replace(RECIPE, epochs=80, batch=4, lr=1e-2)
    source, edited = pairs(4)
    training: ScratchTraining
    if method == "pix2pix":
        training = Pix2PixTraining(PIX2PIX, recipe, source, edited, 0)
    else:
        config = replace(COMODGAN, network=replace(COMODGAN.network, dropout=0.0), path_length=0.0)
        training = CoModGanTraining(config, recipe, source, edited, 0)

    def error() -> float:
        return (training.translate(source).float() - edited.float()).abs().mean().item() / 255

    untrained = error()
    training.train(80)
    assert training.losses[-1] < 0.4 * training.losses[0]
    # what is kept has learnt it, in evaluation mode: without dropout and by running statistics
    assert error() < 0.35 * untrained


@each_method
def test_resuming_is_not_stopping(method: str) -> None:
    whole, stopped = make(method), make(method)
    whole.train(4)
    stopped.train(1)
    stopped.train(2)
    resumed = make(method)
    resumed.train(1)  # whatever it did before
    resumed.load_state(stopped.state())
    assert (resumed.epoch, resumed.losses) == (2, stopped.losses)
    assert resumed.seconds == stopped.seconds
    resumed.train(4)
    assert resumed.losses == whole.losses
    assert equal(resumed, whole)
    source, _ = pairs()
    assert torch.equal(resumed.translate(source), whole.translate(source))


@each_method
def test_a_state_of_another_configuration_is_refused(method: str) -> None:
    longer = make(method, replace(RECIPE, epochs=5))
    other = make(METHODS[method == METHODS[0]])
    for state in (longer.state(), other.state()):
        with pytest.raises(ValueError, match=f"^{method}: the saved state is of another config"):
            make(method).load_state(state)


@each_method
def test_the_seed_decides(method: str) -> None:
    torch.manual_seed(11)
    first, again, other = make(method), make(method), make(method, seed=1)
    first.train(2)
    torch.rand(7)  # the global state does not matter, nor is it touched
    before = torch.get_rng_state()
    again.train(2)
    other.train(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first, again)
    assert not equal(first, other)


@each_method
def test_a_loss_that_is_not_finite_is_named(method: str) -> None:
    training = make(method)
    training.train(1)
    with torch.no_grad():
        next(training.generator.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match=f"^{method}: loss is nan in epoch 2, step 4$"):
        training.train(2)
    assert training.epoch == 1


@each_method
def test_translation_is_deterministic_and_knows_no_batch(method: str) -> None:
    training = make(method)
    training.train(1)
    source, _ = pairs()
    state = training.state()
    images = training.translate(source)
    assert images.shape == source.shape and images.dtype == torch.uint8
    assert torch.equal(images, training.translate(source))
    for batch in (1, 2):
        # convolutions may round otherwise in another batch
        off = (images.int() - training.translate(source, batch).int()).abs()
        assert off.max() <= 1
    assert training.state() == state


@each_method
def test_flops_are_those_of_the_step_that_is_done(method: str) -> None:
    recipe = replace(RECIPE, batch=4)
    training = make(method, recipe)
    state = training.state()
    counted, image = training.step_flops, training.image_flops
    assert training.state() == state
    one = torch.randn(4, 3, 16, 16)
    # updates for R1 and paths are in every second one
    done = count_flops(lambda: training._step(one, one, 0))
    done += count_flops(lambda: training._step(one, one, 1))
    assert counted == pytest.approx(done / 2)
    assert image == count_flops(lambda: training.translate(pairs()[0][:1]))
    assert counted > 3 * 4 * image  # forward and backward, and the discriminator's
    # of a batch: more images are more work
    assert make(method, replace(recipe, batch=8)).step_flops == pytest.approx(2 * counted, rel=0.05)


@each_method
def test_weights_are_those_of_what_is_kept(method: str) -> None:
    training = make(method)
    assert training.total == training.trainable == weights_of(training.generator)


@each_method
def test_without_the_adversarial_term_no_discriminator_learns(method: str) -> None:
    training = make(method, replace(RECIPE, gan_weight=0.0))
    before = weights(training.discriminator)
    training.train(1)
    assert all(torch.equal(before[k], v) for k, v in training.discriminator.state_dict().items())


@each_method
def test_the_discriminator_tells_the_edits_from_the_drawn(method: str) -> None:
    """It is trained on pairs: real ones up, drawn ones down."""
    # a generator that hardly moves, and long enough for the discriminator
    training = make(method, replace(RECIPE, epochs=30, batch=4, lr=1e-6, discriminator_lr=2e-3))
    training.train(30)
    source, edited = (x.float() / 127.5 - 1 for x in pairs())
    with torch.no_grad():
        drawn = training._translate(source)
        real, fake = (training.discriminator(source, x).mean() for x in (edited, drawn))
    assert real > fake + 0.5


@settings(max_examples=50, deadline=None)
@given(
    epochs=st.integers(1, 300),
    batch=st.integers(1, 9),
    images=st.integers(1, 40),
    constant=st.floats(0, 1),
)
def test_epochs_drop_no_image_and_rates_fall(
    epochs: int, batch: int, images: int, constant: float
) -> None:
    recipe = ScratchRecipe(epochs=epochs, batch=batch, constant=constant)
    steps = [recipe.steps(i, images) for i in range(epochs + 1)]
    assert steps[0] == 0 and steps == sorted(steps)
    assert epochs * images <= steps[-1] * batch < epochs * images + batch
    rates = [recipe.rate(i) for i in range(epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0 and rates[0] <= 1
    full = round(constant * epochs)
    assert rates[:full] == [1.0] * full


def test_the_published_rates() -> None:
    """100 epochs at 2e-4, then 100 to 0, in steps of 1/101."""
    recipe = ScratchRecipe(epochs=200)
    assert [recipe.rate(i) for i in (0, 99)] == [1, 1]
    assert [recipe.rate(i) for i in (100, 150, 199)] == pytest.approx(
        [100 / 101, 50 / 101, 1 / 101]
    )
    assert ScratchRecipe(epochs=9, constant=1.0).rate(8) == 1


@each_method
def test_the_rates_reach_both_optimisers(method: str) -> None:
    training = make(method, replace(RECIPE, discriminator_lr=1e-3))
    first = [o.param_groups[0]["lr"] for o in training._optimisers().values()]
    training.train(4)
    last = [o.param_groups[0]["lr"] for o in training._optimisers().values()]
    assert first[0] > first[1]
    assert last == pytest.approx([lr * RECIPE.rate(3) for lr in first])
    assert RECIPE.rate(3) == pytest.approx(1 / 3)


@each_method
def test_an_epoch_sees_every_pair_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make(method, replace(RECIPE, batch=1))
    source, edited = pairs()
    seen = []

    def step(x: Tensor, y: Tensor, _: int) -> tuple[Tensor, Tensor]:
        seen.append((x, y))
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(training, "_step", step)
    training.train(2)
    for epoch in (seen[:5], seen[5:]):
        images = torch.cat([to_uint8(x) for x, _ in epoch])
        assert sorted(images.flatten(1).tolist()) == sorted(source.flatten(1).tolist())
        # nothing is cropped or mirrored, and pairs stay pairs
        assert all(torch.equal(to_uint8(x), 255 - to_uint8(y)) for x, y in epoch)
    assert len(seen) == 10 and edited.dtype == torch.uint8


def drawn(recipe: ScratchRecipe, count: int) -> list[tuple[Tensor, Tensor]]:
    training = make("pix2pix", recipe)
    torch.manual_seed(0)
    return [training._batch(torch.tensor([i % 5])) for i in range(count)]


def test_jitter_shifts_both_images_alike() -> None:
    still = drawn(RECIPE, 5)
    moved = drawn(replace(RECIPE, jitter=4), 20)
    bound = rounding(16, torch.tensor(2.0))  # four products and sums, down and across
    for i, (x, y) in enumerate(moved):
        assert x.shape == (1, 3, 16, 16)
        torch.testing.assert_close(x, -y, rtol=0, atol=bound)
        assert not torch.allclose(x, still[i % 5][0])
    assert not torch.allclose(moved[0][0], moved[5][0])  # another place


def test_flips_mirror_both_images_half_of_the_time() -> None:
    still = drawn(RECIPE, 5)
    moved = drawn(replace(RECIPE, flips=True), 100)
    mirrored = 0
    for i, (x, y) in enumerate(moved):
        before = still[i % 5][0]
        assert torch.equal(x, before) or torch.equal(x, before.flip(-1))
        assert torch.equal(to_uint8(x), 255 - to_uint8(y))
        mirrored += not torch.equal(x, before)
    assert 30 <= mirrored <= 70


@in_float64()
def test_at_batch_1_batch_norm_trains_as_instance_norm() -> None:
    """As published; but only the second translates by the image's own statistics."""
    source, edited = (x[:1] / 127.5 - 1 for x in pairs())
    images, gradients = [], []
    for norm in ("batch", "instance"):
        config = replace(PIX2PIX, norm=norm, generator=replace(PIX2PIX.generator, dropout=0.0))
        training = Pix2PixTraining(config, RECIPE, *pairs(), seed=0)
        network = training.generator.train()
        images.append(network(source))
        (images[-1] - edited).abs().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
        network.eval()
        as_trained = torch.allclose(training._translate(source), images[-1], atol=1e-7)
        assert as_trained is (norm == "instance")
    torch.testing.assert_close(*images)
    assert len(gradients[0]) == len(gradients[1]) == len(list(network.parameters()))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm='layer': must be batch or instance"):
        Pix2PixConfig(norm="layer")


def test_the_average_is_of_the_weights_after_each_step() -> None:
    training = comodgan(replace(COMODGAN, ema_images=3.0, ema_start=1e9))
    key = "first.weight"
    average = training.average.state_dict()[key].clone()
    order = []
    done = training._step

    def step(*given: object) -> tuple[Tensor, Tensor]:
        nonlocal average
        made = done(*given)
        average = average.lerp(training.generator.state_dict()[key], 1 - 0.5 ** (2 / 3))
        order.append(made)
        return made

    training._step = step
    training.train(2)
    bound = rounding(3 * len(order), average)  # a difference, a product and a sum per step
    torch.testing.assert_close(training.average.state_dict()[key], average, rtol=0, atol=bound)
    assert not torch.allclose(training.generator.state_dict()[key], average, atol=1e-4)
    assert not any(p.requires_grad for p in training.average.parameters())
    assert len(order) == RECIPE.steps(2, 5)


def test_the_half_life_of_the_average() -> None:
    recipe = replace(COMODGAN, ema_images=100.0, ema_start=0.05)
    # late: after 100 images half is left
    assert recipe.decay(10, 100_000) ** 10 == pytest.approx(0.5)
    # early: a twentieth of what was seen
    assert recipe.decay(1, 200) ** 10 == pytest.approx(0.5)
    assert replace(recipe, ema_images=0.0).decay(8, 1000) == 0


class Cubic(nn.Module):
    """D(source, edited) = Σ a · source³ + Σ b · edited², per image."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))
        self.b = nn.Parameter(torch.tensor(-1.3))

    def forward(self, source: Tensor, edited: Tensor) -> Tensor:
        return (self.a * source**3).sum((1, 2, 3)) + (self.b * edited**2).sum((1, 2, 3))


@in_float64()
def test_r1_by_hand() -> None:
    network = Cubic()
    source, edited = torch.randn(2, 4, 3, 2, 2)
    penalty = r1_penalty(network, source, edited)
    a, b = network.a.item(), network.b.item()
    cubes = (9 * source**4).sum((1, 2, 3))
    squares = (4 * edited**2).sum((1, 2, 3))
    torch.testing.assert_close(penalty, a**2 * cubes + b**2 * squares)
    penalty.sum().backward()
    assert network.a.grad is not None and network.b.grad is not None
    torch.testing.assert_close(network.a.grad, 2 * a * cubes.sum())
    torch.testing.assert_close(network.b.grad, 2 * b * squares.sum())


@in_float64()
def test_lazy_r1_has_the_gradient_of_r1_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    source, edited = (x / 127.5 - 1 for x in pairs())

    def total(interval: int) -> Tensor:
        """The gradient of 8 steps' updates for R1, the weights held where they are."""
        config = replace(COMODGAN, r1_interval=interval, r1=10.0)
        training = comodgan(config)
        weight = training.discriminator.get_parameter("head.weight")
        gradient = torch.zeros_like(weight)
        zeros = torch.zeros(())
        monkeypatch.setattr(training, "_update", lambda *_: (zeros, zeros))

        def collect() -> None:
            assert weight.grad is not None
            gradient.add_(weight.grad)

        monkeypatch.setattr(training.critic_optimiser, "step", collect)
        for step in range(8):
            training._step(source, edited, step)
        return gradient

    every = total(1)
    assert every.abs().max() > 0
    for interval in (2, 4, 8):
        torch.testing.assert_close(total(interval), every)
    training = comodgan(replace(COMODGAN, r1=10.0))
    gamma_half = r1_penalty(training.discriminator, source, edited).mean() * 5
    (expected,) = torch.autograd.grad(
        gamma_half, training.discriminator.get_parameter("head.weight")
    )
    torch.testing.assert_close(every / 8, expected)


def test_lazy_updates_slow_adam_down() -> None:
    """App. B of the StyleGAN2 paper: c = k / (k + 1)."""
    training = comodgan(replace(COMODGAN, r1_interval=16, path_interval=4))
    critic, own = training.critic_optimiser.param_groups[0], training.optimiser.param_groups[0]
    assert critic["lr"] == pytest.approx(2e-3 * 16 / 17)
    assert critic["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))
    assert own["lr"] == pytest.approx(2e-3 * 4 / 5)
    plain = comodgan(replace(COMODGAN, r1=0.0, path_length=0.0))
    for optimiser in (plain.optimiser, plain.critic_optimiser):
        assert optimiser.param_groups[0]["lr"] == 2e-3
        assert optimiser.param_groups[0]["betas"] == (0.0, 0.99)


@in_float64()
def test_path_lengths_by_the_whole_jacobian() -> None:
    training = comodgan(COMODGAN)
    network = training.generator.eval()
    source = torch.randn(1, 3, 16, 16)
    w = torch.randn(1, 8, requires_grad=True)
    torch.manual_seed(5)
    length = path_lengths(network, source, w)
    torch.manual_seed(5)
    y = torch.randn_like(network.synthesise(source, w)) / 16  # of its layout in memory
    jacobian = torch.autograd.functional.jacobian(lambda x: network.synthesise(source, x), w)
    assert isinstance(jacobian, Tensor)
    expected = (jacobian.view(768, 8).T @ y.flatten()).norm()
    torch.testing.assert_close(length, expected[None])


def test_the_mean_path_length_follows() -> None:
    off = comodgan(replace(COMODGAN, path_length=0.0))
    on = comodgan(COMODGAN)
    off.train(1)
    on.train(1)
    assert off.mean_length == 0
    assert on.mean_length > 0
    assert not torch.equal(off.generator.first.weight, on.generator.first.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, e: (s[:4], e), "must both be"),
        (lambda s, e: (s[:, :1], e[:, :1]), "must both be"),
        (lambda s, e: (s[0], e[0]), "must both be"),
        (lambda s, e: (s.float(), e), "must be uint8"),
        (lambda s, e: (s[:0], e[:0]), "one or more"),
    ],
)
def test_what_are_no_pairs_is_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Pix2PixTraining(PIX2PIX, RECIPE, *change(*pairs()), 0)


@pytest.mark.parametrize(
    "keys", [{"epochs": 0}, {"batch": 0}, {"jitter": -1}, {"constant": 1.5}, {"constant": -0.1}]
)
def test_impossible_recipes_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="constant is in"):
        ScratchRecipe(**keys)


@pytest.mark.parametrize(
    "keys", [{"r1": -1.0}, {"ema_start": 0.0}, {"r1_interval": 0}, {"path_interval": 0}]
)
def test_impossible_comodgan_recipes_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="start"):
        replace(COMODGAN, **keys)


def test_epochs_that_are_not_there_are_refused() -> None:
    training = make("pix2pix")
    with pytest.raises(ValueError, match="pix2pix: cannot train until epoch 5: 0 of 4 are done"):
        training.train(5)
    training.train(1)
    with pytest.raises(ValueError, match="1 of 4 are done"):
        training.train(0)


@each_method
def test_on_the_meta_device_costs_can_be_asked(method: str) -> None:
    empty = torch.empty(5, 3, 16, 16, dtype=torch.uint8, device=META)
    if method == "pix2pix":
        training: ScratchTraining = Pix2PixTraining(PIX2PIX, RECIPE, empty, empty, 0, META)
    else:
        training = CoModGanTraining(COMODGAN, RECIPE, empty, empty, 0, META)
    real = make(method)
    assert (training.step_flops, training.image_flops) == (real.step_flops, real.image_flops)
    assert training.total == real.total
