"""Shapes of the networks that are adapted, by family: what fits what, without a network or torch.

A configuration is checked with these before anything heavy is imported. A new family is a
TargetConfig with one line in SHAPES here, and its network in families.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol


class TargetError(ValueError):
    """A shape of a target network, or an image, that does not fit."""


class TargetConfig(Protocol):
    """Shape of a target network: a frozen dataclass whose fields are JSON values."""

    @property
    def text_dim(self) -> int:
        """Dimension of the prompt's tokens; 0 if the network reads no prompt."""

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""

    @property
    def least_side(self) -> int:
        """Image sides must be at least this."""

    def to_dict(self) -> dict[str, object]:
        """The fields, as JSON can hold them; PEFT asks a model's config for it, too."""


@dataclass(frozen=True)
class TranslatorConfig:
    """Shape of a translator. `width` is the channel count of the stem, at full resolution."""

    width: int = 32
    downs: int = 1
    """Halvings before the ResNet blocks; each doubles the channels."""
    edge_kernel: int = 7
    """Kernel of the first and the last convolution (7 in the paper's class of networks)."""
    heads: int = 4
    text_dim: int = 384
    feed_forward: int = 2
    """The transformer block's feed-forward layer is so many times as wide as its channels."""
    gated: bool = False
    """Gated by GELU (GEGLU, Shazeer 2020), as in Stable Diffusion's transformer blocks. With
    feed_forward 4, width 64, two halvings and CLIP's 768, the translator has the paper's 7.06 M."""
    dropout: float = 0.0
    """The paper's z (Eq. 4) in pix2pix's form: noise by dropout, off at evaluation."""
    global_skip: bool = True
    """Predict a change to the input instead of the output itself."""
    long_skips: bool = True
    """Add each encoder resolution to the decoder's."""

    def __post_init__(self) -> None:
        inner = self.width * 2**self.downs
        if min(self.width, self.heads, self.text_dim, self.feed_forward) < 1 or self.downs < 0:
            raise TargetError(f"sizes start at 1, downs at 0: {self}")
        if inner % self.heads:
            raise TargetError(f"heads ({self.heads}) must divide width · 2^downs ({inner})")
        if self.edge_kernel % 2 == 0:
            raise TargetError(f"edge_kernel must be odd, not {self.edge_kernel}")
        if not 0 <= self.dropout < 1:
            raise TargetError(f"dropout must lie in [0, 1), not {self.dropout}")

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""
        return 2 ** (self.downs + 1)

    @property
    def least_side(self) -> int:
        """Image sides must be at least this."""
        return self.multiple

    def to_dict(self) -> dict[str, object]:
        """The fields, as JSON can hold them; PEFT asks a model's config for it, too."""
        return asdict(self)


@dataclass(frozen=True)
class ResNetGeneratorConfig:
    """`width` channels at full resolution; `downs` halvings, each of which doubles them."""

    width: int = 64
    blocks: int = 9
    downs: int = 2
    dropout: float = 0.0
    """Within the blocks; pix2pix's z (Eq. 4)."""
    transposed: bool = True
    edge_kernel: int = 7
    """Kernel of the first and the last convolution."""
    global_skip: bool = False
    """Predict a change to the input instead of the output itself."""

    def __post_init__(self) -> None:
        if min(self.width, self.blocks) < 1 or self.downs < 0 or not 0 <= self.dropout < 1:
            raise TargetError(
                f"width and blocks start at 1, downs at 0, dropout is in [0, 1): {self}"
            )
        if self.edge_kernel % 2 == 0:
            raise TargetError(f"edge_kernel must be odd, not {self.edge_kernel}")

    @property
    def text_dim(self) -> int:
        """0: it reads no prompt."""
        return 0

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""
        return 2**self.downs

    @property
    def least_side(self) -> int:
        """Reflection needs sides longer than its border."""
        return max(4 * self.multiple, self.edge_kernel // 2 + 1)

    def to_dict(self) -> dict[str, object]:
        """The fields, as JSON can hold them; PEFT asks a model's config for it, too."""
        return asdict(self)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`width` channels after the first layer, doubled by each further one; 3 layers see 70×70."""

    width: int = 64
    layers: int = 3
    norm: str = "instance"
    """instance, without weights, images judged alone | batch, with weights: pix2pix's own."""


@dataclass(frozen=True)
class Shape:
    """A family's config class and the fields of it that are not a user's to choose."""

    # Any: frozen dataclasses do not match a Protocol as a type, and each has its own fields
    config: type[Any]
    fixed: Mapping[str, object] = field(default_factory=dict)


SHAPES = {
    "e2gan": Shape(TranslatorConfig),
    # PEFT has no LoRA for transposed convolutions
    "resnet": Shape(ResNetGeneratorConfig, {"transposed": False}),
}
FIRST = "e2gan"
"""The family of the runs whose description does not name one."""


def target_config(family: str, settings: Mapping[str, object], text_dim: int) -> TargetConfig:
    """The shape that `settings` describe, of which a family reads the fields that it has.

    text_dim: dimension of the prompt's tokens. TargetError: no such family, or impossible values.
    """
    kind = _shape(family)
    known = {f.name for f in fields(kind.config)}
    given = {**settings, "text_dim": text_dim, **kind.fixed}
    config: TargetConfig = kind.config(**{k: v for k, v in given.items() if k in known})
    return config


def describe(config: TargetConfig) -> dict[str, object]:
    """The shape and its family's name, as JSON can hold them."""
    return {"family": family_of(config), **config.to_dict()}


def from_description(about: Mapping[str, object]) -> TargetConfig:
    """Inverse of `describe`; TargetError if the family is unknown or the values impossible."""
    values = dict(about)
    config: TargetConfig = _shape(str(values.pop("family", FIRST))).config(**values)
    return config


def family_of(config: TargetConfig) -> str:
    """The name of the family that this is a shape of."""
    return next(name for name, shape in SHAPES.items() if type(config) is shape.config)


def _shape(name: str) -> Shape:
    if name not in SHAPES:
        raise TargetError(f"family={name}: must be one of {', '.join(SHAPES)}")
    return SHAPES[name]
