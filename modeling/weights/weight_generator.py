"""Weight generators: text and noise in, an adapter's weight blocks out.

Makes the paper's 1-D UNet or the block transformer; Eq. (1)'s loss and prediction (Sec. 4.4) are
the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from modeling.weights.block_transformer import BlockTransformer
from modeling.weights.diffusion import NoiseSchedule, ddim, ddim_timesteps, one_step
from modeling.weights.interface import (
    GeneratorConfig,
    GeneratorError,
    SamplingMethod,
    TextBatch,
    WeightGenerator,
)
from modeling.weights.unet1d import UNet1d

ON_GPU = 1024
"""Blocks of one call on a GPU: the paper's adapter has 854."""


def build(config: GeneratorConfig) -> WeightGenerator:
    """A freshly initialised weight generator (seed torch first)."""
    return BlockTransformer(config) if config.kind == "transformer" else UNet1d(config)


def unwrap(model: nn.Module) -> WeightGenerator:
    """The weight generator inside DistributedDataParallel and torch.compile wrappers."""
    inner: Any = model
    while not isinstance(inner, WeightGenerator):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if inner is None:
            raise GeneratorError(f"{type(model).__name__} is not a weight generator")
    return inner


def denoising_loss(
    model: nn.Module,
    schedule: NoiseSchedule,
    x0: Tensor,
    blocks: Tensor,
    mask_w: Tensor,
    text: TextBatch,
    t: Tensor,
    eps: Tensor,
    previous: Tensor | None = None,
) -> Tensor:
    """Eq. (1) for the model's prediction type: mean squared error over real weights, a scalar.

    `x0` and `eps` [B, K, b] (normalised weights, standard Gaussian noise), `blocks` [K] int64,
    `mask_w` [K, b] bool (True = real weight; padding does not count), `t` [B] int64. `model` may
    be wrapped by DistributedDataParallel or torch.compile. `previous`: see WeightGenerator.
    """
    kind = unwrap(model).config.prediction
    given = () if previous is None else (previous,)
    output = model(schedule.add_noise(x0, eps, t), t, blocks, *text, *given)
    error = (output.float() - schedule.target(kind, x0, eps, t).float()).square()
    weights = mask_w.to(error.dtype)
    return (error * weights).sum() / (weights.sum() * x0.shape[0])


def draw_noise(config: GeneratorConfig, seeds: Sequence[int]) -> Tensor:
    """Standard Gaussian [B, N, b] on the CPU; each seed's is the same whatever the others are."""
    shape = (config.n_blocks, config.block_size)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )


def predict_blocks(
    model: nn.Module,
    schedule: NoiseSchedule,
    text: TextBatch,
    t: int,
    *,
    seed: int | None = None,
    noise: Tensor | None = None,
    method: SamplingMethod = "one_step",
    ddim_steps: int = 20,
    chunk: int | None = None,
    differentiable: bool = False,
    mask_w: Tensor | None = None,
) -> Tensor:
    """Normalised blocks [B, N, b] of B concepts, from pure noise at time step t (Sec. 4.4).

    Give `seed` or `noise` ([B, N, b] standard Gaussian). A seed draws one noise on the CPU for all
    concepts, so a concept's prediction depends neither on its batch nor on the device. "one_step"
    is the paper's direct recovery; "ddim" takes `ddim_steps` steps from t to 0. A UNet gets
    `chunk` blocks of each concept per call (by default the paper's 64, on a GPU as many as make
    ON_GPU of all concepts), a joint model all of them, a sequential one a single block, after the
    one before it, whose padding it must see as zeros: it needs `mask_w` [N, b] bool, True = real
    weight.

    The model runs in eval mode and is put back after. Gradients flow only if `differentiable`
    (training through the image loss), and then the model keeps its own mode.
    """
    if (seed is None) == (noise is None):
        raise GeneratorError("give either seed or noise to predict_blocks")
    if method not in get_args(SamplingMethod):
        raise GeneratorError(f"unknown method {method!r}: use one of {get_args(SamplingMethod)}")
    if chunk is not None and chunk < 1:
        raise GeneratorError(f"chunk must be at least 1, not {chunk}")
    inner = unwrap(model)
    if inner.config.sequential and (method != "one_step" or mask_w is None):
        raise GeneratorError("block_conditioning 'previous' needs mask_w, and predicts by one_step")
    config, device = inner.config, text.tokens.device
    shape = (text.tokens.shape[0], config.n_blocks, config.block_size)
    if noise is None:
        assert seed is not None
        noise = draw_noise(config, [seed]).to(device).expand(shape)
    elif noise.shape != shape:
        raise GeneratorError(f"noise has shape {tuple(noise.shape)}, expected {shape}")
    if chunk is None:
        chunk = max(64, ON_GPU // shape[0]) if device.type == "cuda" else 64
    indices = torch.arange(config.n_blocks, device=device)
    groups = [indices] if inner.joint else list(indices.split(chunk))

    def recover(x: Tensor) -> Tensor:
        """All blocks from pure noise, by direct recovery."""
        if mask_w is None or not config.sequential:
            return one_step(schedule, denoise, x, t, config.prediction)

        def alone(y: Tensor, times: Tensor, index: Tensor, before: Tensor) -> Tensor:
            return model(y, times, index, *text, before)

        done, before = [], torch.zeros_like(x[:, :1])
        for index in indices.split(1):
            call = partial(alone, index=index, before=before)
            done.append(one_step(schedule, call, x[:, index], t, config.prediction))
            before = done[-1] * mask_w[index].to(done[-1].dtype)
        return torch.cat(done, dim=1)

    def denoise(x: Tensor, times: Tensor) -> Tensor:
        parts = x.split([len(g) for g in groups], dim=1)
        outputs = [model(p, times, g, *text) for p, g in zip(parts, groups, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    training = model.training
    if not differentiable:
        model.eval()
    try:
        with torch.set_grad_enabled(differentiable):
            if method == "one_step":
                return recover(noise)
            steps = ddim_timesteps(t, ddim_steps)
            return ddim(schedule, denoise, noise, steps, config.prediction)
    finally:
        model.train(training)
