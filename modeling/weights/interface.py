"""What a weight generator is: its configuration, its inputs and the base of its networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from torch import Tensor, nn

from modeling.weights.diffusion import BetaSchedule, NoiseSchedule, PredictionKind

GeneratorKind = Literal["transformer", "unet"]

SamplingMethod = Literal["one_step", "ddim"]

BlockConditioning = Literal["index", "none", "previous"]


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
