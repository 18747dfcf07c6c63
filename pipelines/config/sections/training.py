"""What is trained, and how: translator, adapters, weight generator."""

from __future__ import annotations

from dataclasses import dataclass, field

from modeling.targets.recipe import Collecting, Training
from modeling.weights.recipe import GeneratorTrainingSettings


@dataclass
class TranslatorShape:
    """The network that is adapted; each family (modeling/targets/families.py) reads its own
    keys."""

    family: str = "e2gan"
    """e2gan (modeling/targets/translator.py) | resnet (modeling/targets/resnet_generator.py), which
    reads no prompt."""
    width: int = 16
    """Channels at full resolution."""
    downs: int = 1
    """Halvings of the side, each of which doubles the channels."""
    edge_kernel: int = 7
    """Side of the first and the last convolution; odd."""
    blocks: int = 9
    """ResNet blocks; resnet only."""
    heads: int = 4
    """This and the next two: e2gan's transformer block."""
    feed_forward: int = 2
    """Width of its feed-forward layer, in channels."""
    gated: bool = False
    """Its feed-forward layer is gated by GELU."""
    dropout: float = 0.0
    """The paper's z (Eq. 4); off when it translates."""
    global_skip: bool = True
    """Predict a change to the picture, not the picture."""
    long_skips: bool = True
    """e2gan only."""


@dataclass
class DiscriminatorShape:
    """The patch discriminator of base and adapters."""

    width: int = 16
    """Channels after its first layer."""
    layers: int = 2
    """Halvings; 3 judge patches of 70 × 70 pixels."""


@dataclass
class Lora:
    """Adapters: LoRA on every layer of the target network (paper Sec. 3)."""

    rank: int = 1
    """Of every layer that `ranks` does not name."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank of single layers, by name."""
    seed: int = 0
    """Of the factors A, which all adapters start from."""


@dataclass
class Base(Training):
    """Training of the base translator on representative concepts (E²GAN)."""

    steps: int = 400
    batch: int = 16
    lr: float = 1e-3
    concepts: int = 16
    """How many, chosen by k-means over the text embeddings."""
    checkpoint_every: int = 200
    """Steps; a training that is killed goes on from the last one."""
    workers: int = 1
    """Of Ray Train, each with `batch` pictures a step."""


@dataclass
class Gans(Collecting):
    """Collection: one adapter per training concept, all by one recipe (Eq. 4)."""

    steps: int = 48
    """0 = found on pilot concepts by the convergence rule (modeling/targets/convergence.py)."""
    batch: int = 16
    lr: float = 5e-3
    ema: float = 0.9
    checkpoints: int = 1
    """K: how many checkpoints of one concept are kept, evenly over the last quarter."""
    concepts_per_batch: int = 4
    """Adapters that one actor trains together; halved when memory runs out. 0 = what fits,
    remembered by device and network."""
    pilots: int = 4
    """Concepts on which the number of steps is found."""
    pilot_steps: int = 400
    """Of a pilot."""
    pilot_score: str = "l1"
    """l1 | fd: validation L1, or the distance of evaluate.features: Fréchet from 2048 validation
    images on, the kernel distance (KID) with fewer."""
    pilot_tolerance: float = 0.02
    """Of the best score; with pilot_score=fd, of the score that training starts from."""


@dataclass
class Ranks:
    """The search for a rank per layer (modeling/targets/rank_search.py), a command of its own."""

    choices: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Ranks that a layer may get; the search trains adapters of the highest."""
    score: str = "loss"
    """loss | energy: what a layer loses at a lower rank, in training L1 or of its change."""
    steps: int = 0
    """Of each training; 0 = gans.steps."""


@dataclass
class Weights:
    """The codec (modeling/weights/codec.py; paper Sec. 4.2)."""

    block_size: int = 128
    """b: weights in a block; the paper has 256."""
    grouping: int = 1
    """Rule 1, 2 or 3 of Table 3."""
    centre: str = "element"
    """element | tensor: what normalisation subtracts."""
    concepts: int = 0
    """Train on the adapters of this many training concepts, drawn by the seed; 0 = all. The weight
    generator and every control then see no others: the scaling curve."""


@dataclass
class Generator(GeneratorTrainingSettings):
    """The weight generator and its training (paper Sec. 4.3)."""

    kind: str = "transformer"
    """transformer | unet (the paper's)"""
    width: int = 128
    """Of the transformer's tokens; of the UNet's embeddings."""
    depth: int = 4
    """Transformer: layers. UNet: residual blocks a level."""
    heads: int = 4
    """Of attention."""
    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of the UNet's levels."""
    fold: int = 1
    """UNet only: neighbouring weights folded into channels of one place; 1 is the paper's."""
    block_conditioning: str = "index"
    """UNet only: index (the paper's) | none | previous (the index and the block before)"""
    prediction: str = "x0"
    """x0 | v | epsilon"""
    schedule: str = "squaredcos_cap_v2"
    """linear | scaled_linear | squaredcos_cap_v2: of the noise, as diffusers names them."""
    steps: int = 400
    batch: int = 16
    """Concepts a step."""
    lr: float = 1e-3
    image_concepts: int = 4
    """Concepts a step: equally many with an adapter, and of each kind of concepts.paired_*."""
    image_batch: int = 12
    """Pairs of a concept in a step on the image loss."""
    checkpoint_every: int = 200
    """Steps; a training that is killed goes on from the last one."""
    workers: int = 1
    """Of Ray Train, each with `batch` concepts a step."""


@dataclass
class Rival(Generator):
    """A second weight generator, trained and scored beside the first: the paper's, by default."""

    train: bool = False
    """Whether there is one."""
    kind: str = "unet"
