"""Weight generators: text and noise in, an adapter's weight blocks out.

One interface for the paper's 1-D UNet and the block transformer, their config, Eq. (1)'s loss,
prediction (Sec. 4.4), weight averaging and the checkpoint's bytes. Reading and writing files is
the caller's.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modeling.diffusion import (
    BetaSchedule,
    NoiseSchedule,
    PredictionKind,
    ddim,
    ddim_timesteps,
    one_step,
)

GeneratorKind = Literal["transformer", "unet"]
SamplingMethod = Literal["one_step", "ddim"]
BlockConditioning = Literal["index", "none", "previous"]
MODEL_FILE, EMA_FILE, CONFIG_FILE = "model.safetensors", "ema.safetensors", "generator.json"
FORMAT = 1


class GeneratorError(ValueError):
    """A weight-generator config, input or checkpoint that does not fit."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a weight generator and its noise schedule."""

    kind: GeneratorKind
    block_size: int
    """b, weights per block."""
    n_blocks: int
    """N, blocks per adapter."""
    text_dim: int
    """D, size of the text encoder's token and pooled embeddings."""
    width: int = 256
    """Transformer: size of a block's token. UNet: size of emb and of the projected text."""
    depth: int = 4
    """Transformer: layers. UNet: ResBlock stages per resolution, down and again up."""
    heads: int = 4
    dropout: float = 0.0
    prediction: PredictionKind = "x0"
    schedule: BetaSchedule = "linear"
    steps: int = 1000
    per_block_input: bool = False
    """Transformer only: an input projection per block in place of one shared by all."""
    channels: tuple[int, ...] = (64, 128, 256)
    """UNet only: channels per resolution, each half as long as the one before."""
    fold: int = 1
    """UNet only: neighbouring weights that share a place of the signal, as its channels; 1 is the
    paper's. The cost falls in proportion."""
    attention_from: int = 1
    """UNet only: first resolution with transformer blocks; 0 is the full one (and slow)."""
    place_embedding: bool = True
    """UNet only: a learned embedding of a weight's place in its block; see UNet1d."""
    block_conditioning: BlockConditioning = "index"
    """UNet only: what it is told of the block: its index (the paper's), nothing, or the index and
    the block before it (which the paper found needless), predicted first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        for name, allowed in (
            ("kind", get_args(GeneratorKind)),
            ("prediction", get_args(PredictionKind)),
            ("schedule", get_args(BetaSchedule)),
            ("block_conditioning", get_args(BlockConditioning)),
        ):
            if getattr(self, name) not in allowed:
                raise GeneratorError(f"{name} is {getattr(self, name)!r}: use one of {allowed}")
        for name in ("block_size", "n_blocks", "text_dim", "width", "depth", "heads", "steps"):
            if getattr(self, name) < 1:
                raise GeneratorError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise GeneratorError(f"dropout must lie in [0, 1), not {self.dropout}")
        if self.kind == "transformer":
            attended: tuple[int, ...] = (self.width,)
        else:
            if self.block_size < 8:
                raise GeneratorError(f"the UNet needs blocks of 8 or more, not {self.block_size}")
            if not self.channels or min(self.channels) < 1 or self.attention_from < 0:
                raise GeneratorError("the UNet needs positive channels and attention_from >= 0")
            if self.fold < 1 or self.block_size % self.fold:
                raise GeneratorError(f"fold ({self.fold}) must divide block_size {self.block_size}")
            attended = (*self.channels[self.attention_from :], self.channels[-1])
        if any(c % self.heads for c in attended):
            raise GeneratorError(f"heads ({self.heads}) must divide each of {attended}")

    @property
    def sequential(self) -> bool:
        """Whether a block's prediction waits for that of the block before it."""
        return self.kind == "unet" and self.block_conditioning == "previous"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """The inverse of dataclasses.asdict; unknown or missing keys raise GeneratorError."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise GeneratorError(f"unknown weight-generator option {unknown[0]!r}")
        try:
            return cls(**values)
        except TypeError as error:
            raise GeneratorError(f"bad weight-generator config: {error}") from error

    def noise_schedule(self) -> NoiseSchedule:
        """The schedule that the weight generator is trained and sampled with."""
        return NoiseSchedule(self.steps, self.schedule)


class TextBatch(NamedTuple):
    """Padded text embeddings of B concepts."""

    tokens: Tensor
    """[B, L, D] float."""
    mask: Tensor
    """[B, L] bool, True = token, False = padding."""
    pooled: Tensor
    """[B, D] float."""


class WeightGenerator(nn.Module):
    """Base of the two networks."""

    joint: ClassVar[bool]
    """True: every call needs all N blocks. False: any subset, each block on its own."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        blocks: Tensor,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Denoise K blocks of each of B concepts.

        Args:
            noisy: [B, K, b] normalised weights with noise, w^t.
            t: [B] int64 time steps.
            blocks: [K] int64 block indices, no duplicates.
            tokens: [B, L, D] text tokens, padded.
            mask: [B, L] bool, True = token.
            pooled: [B, D] pooled text.
            previous: [B, K, b] normalised weights of the block before each, zeros before block 0;
                given if and only if `config.sequential`.

        Returns:
            [B, K, b]: ε, v or w, as `config.prediction` says.
        """
        raise TypeError("WeightGenerator is a base class: use build(config)")

    def check_inputs(self, noisy: Tensor, blocks: Tensor, previous: Tensor | None) -> None:
        """Raise GeneratorError unless `noisy` is [B, K, b] for these blocks, `previous` as due."""
        k, n, b = blocks.shape[0], self.config.n_blocks, self.config.block_size
        if noisy.dim() != 3 or noisy.shape[1] != k or noisy.shape[2] != b:
            raise GeneratorError(
                f"noisy blocks have shape {tuple(noisy.shape)}, expected [B, {k}, {b}]"
            )
        if (previous is not None) != self.config.sequential:
            raise GeneratorError(
                f"block_conditioning={self.config.block_conditioning!r} of a {self.config.kind}:"
                " give the previous blocks if and only if it is a UNet's 'previous'"
            )
        if self.joint and k != n:
            raise GeneratorError(f"this weight generator needs all {n} blocks at once, got {k}")


def build(config: GeneratorConfig) -> WeightGenerator:
    """A freshly initialised weight generator (seed torch first)."""
    if config.kind == "transformer":
        from modeling.block_transformer import BlockTransformer

        return BlockTransformer(config)
    from modeling.unet1d import UNet1d

    return UNet1d(config)


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
    chunk: int = 64,
    differentiable: bool = False,
    mask_w: Tensor | None = None,
) -> Tensor:
    """Normalised blocks [B, N, b] of B concepts, from pure noise at time step t (Sec. 4.4).

    Give `seed` or `noise` ([B, N, b] standard Gaussian). A seed draws one noise on the CPU for all
    concepts, so a concept's prediction depends neither on its batch nor on the device. "one_step"
    is the paper's direct recovery; "ddim" takes `ddim_steps` steps from t to 0. A UNet gets
    `chunk` blocks of each concept per call (the paper's 64), a joint model all of them, a
    sequential one a single block, after the one before it, whose padding it must see as zeros:
    it needs `mask_w` [N, b] bool, True = real weight.

    The model runs in eval mode and is put back after. Gradients flow only if `differentiable`
    (training through the image loss), and then the model keeps its own mode.
    """
    if (seed is None) == (noise is None):
        raise GeneratorError("give either seed or noise to predict_blocks")
    if method not in get_args(SamplingMethod):
        raise GeneratorError(f"unknown method {method!r}: use one of {get_args(SamplingMethod)}")
    if chunk < 1:
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


class EMA:
    """Exponential moving average of a module's parameters and buffers.

    The decay warms up as (1 + n) / (10 + n) after n updates, so that the random start is forgotten
    at once. `updates` and `average` are the whole state.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise GeneratorError(f"EMA decay must lie in [0, 1), not {decay}")
        self.decay = decay
        self.updates = 0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's current values; its keys must be those of the start."""
        values = model.state_dict()
        self._check_keys(values)
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [k for k, v in values.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[k] for k in floating], [values[k] for k in floating], 1 - keep
        )
        for key in values.keys() - set(floating):
            self.average[key].copy_(values[key])
        self.updates += 1

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's values by the average."""
        self._check_keys(model.state_dict())
        model.load_state_dict(self.average)

    def averaged(self, model: nn.Module) -> nn.Module:
        """A copy of the model that holds the average; the model itself is left alone."""
        twin = copy.deepcopy(model)
        self.copy_to(twin)
        return twin

    def state(self) -> dict[str, Any]:
        """Decay, updates and a copy of the average, for `load_state`."""
        average = {k: v.clone() for k, v in self.average.items()}
        return {"decay": self.decay, "updates": self.updates, "average": average}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` of an EMA of the same module."""
        self._check_keys(state["average"])
        for key, value in state["average"].items():
            if value.shape != self.average[key].shape:
                raise GeneratorError(f"EMA value {key!r} has shape {tuple(value.shape)}")
            self.average[key].copy_(value)
        self.decay, self.updates = float(state["decay"]), int(state["updates"])

    def _check_keys(self, values: Mapping[str, Tensor]) -> None:
        odd = sorted(values.keys() ^ self.average.keys())
        if odd:
            raise GeneratorError(
                f"EMA and model differ at {odd[0]!r}: use the same module, unwrapped"
            )


class Checkpoint(NamedTuple):
    """A weight generator read back; `ema` is None if none was saved."""

    model: WeightGenerator
    ema: EMA | None
    metadata: dict[str, Any]

    @property
    def config(self) -> GeneratorConfig:
        return self.model.config


def to_files(
    model: nn.Module, ema: EMA | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files of a checkpoint by name: safetensors for weights, JSON for the rest.

    `metadata` is the caller's own (step, loss, …) and must be JSON.
    """
    inner = unwrap(model)
    header = {
        "format": FORMAT,
        "config": dataclasses.asdict(inner.config),
        "ema": None if ema is None else {"decay": ema.decay, "updates": ema.updates},
        "metadata": dict(metadata or {}),
    }
    try:
        text = json.dumps(header, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GeneratorError(f"checkpoint metadata is not plain JSON: {error}") from error
    files = {MODEL_FILE: save(_plain(inner.state_dict())), CONFIG_FILE: text.encode()}
    if ema is not None:
        ema._check_keys(inner.state_dict())
        files[EMA_FILE] = save(_plain(ema.average))
    return files


def from_files(files: Mapping[str, bytes]) -> Checkpoint:
    """Read `to_files` back, on the CPU; other files in the mapping are left alone.

    Raises GeneratorError if a file is missing or broken, or if weights and config disagree.
    """
    header = _header(files)
    model = build(GeneratorConfig.from_dict(header["config"]))
    _load_strictly(model, files, MODEL_FILE)
    ema = None
    if header["ema"] is not None:
        twin = build(model.config)
        _load_strictly(twin, files, EMA_FILE)
        ema = EMA(twin, header["ema"]["decay"])
        ema.updates = header["ema"]["updates"]
    return Checkpoint(model, ema, header["metadata"])


def _header(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        header = json.loads(_file(files, CONFIG_FILE))
    except ValueError as error:
        raise GeneratorError(f"{CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise GeneratorError(f"{CONFIG_FILE} is not of format {FORMAT}")
    missing = sorted({"config", "ema", "metadata"} - header.keys())
    if missing:
        raise GeneratorError(f"{CONFIG_FILE} lacks {missing[0]!r}")
    return header


def _load_strictly(model: nn.Module, files: Mapping[str, bytes], name: str) -> None:
    try:
        model.load_state_dict(load(_file(files, name)))
    except (SafetensorError, RuntimeError) as error:
        raise GeneratorError(f"{name} does not fit {CONFIG_FILE}: {error}") from error


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise GeneratorError(f"the checkpoint has no {name}")
    return files[name]


def _plain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in values.items()}
