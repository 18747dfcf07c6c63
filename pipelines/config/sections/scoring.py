"""What is compared and shown: controls, baselines, report."""

from __future__ import annotations

from dataclasses import dataclass, field

from modeling.baselines.recipe import ScratchSettings, SharedStartSettings

JOINT, REPTILE, GRADIENTS = "joint adapter", "Reptile", "LoRA-GA"
"""Starts without a text: two that `starts` trains, and one from a concept's first gradients."""

CONTROLS = (
    "zero LoRA",
    "mean adapter",
    "nearest text",
    "ridge",
    "shuffled prompt",
    "noised nearest",
    JOINT,
    REPTILE,
    GRADIENTS,
)

BASELINES = ("pix2pix-zero-distilled", "pix2pix")
"""Methods of the comparison that train a whole network on each concept."""

COMPARED = (
    *BASELINES,
    "E²GAN",
    "prediction",
    "prediction, E²GAN’s budget",
    "block transformer",
    "1-D UNet",
    *CONTROLS,
)


@dataclass
class Starts(SharedStartSettings):
    """Starts to compare with that are learned from all training concepts and know no text
    (modeling/baselines/shared_starts.py), for evaluate.controls and compare.methods."""


@dataclass
class Evaluate:
    """Stage `evaluate`: the prediction and every control, fine-tuned alike and scored."""

    controls: list[str] = field(
        default_factory=lambda: [
            "zero LoRA",
            "mean adapter",
            "nearest text",
            "ridge",
            "shuffled prompt",
        ]
    )
    """Cheap starts that are fine-tuned and scored as the prediction is."""
    ceiling: bool = True
    """Also train an adapter per held-out concept from zero with the collection's recipe."""
    continued: bool = False
    """Train as long from the prediction, in each regime: does its head start last?"""
    weights_only: bool = False
    """Also score weight generators as they were before the steps on the image loss."""
    scratch_steps: int = 0
    """Also train whole translators from scratch by the base's recipe but the fine-tune's loss and
    batch, this long; 0 = none."""
    scratch_concepts: int = 8
    """How many of each held-out set, evenly."""
    features: str = "efficientnet"
    """efficientnet | inception (clean-fid's) | clip: found by path, in the cache, or downloaded"""
    features_path: str = ""
    """A file or folder of the weights, where they are not found by themselves."""
    features_size: int = 64
    """Side to which pictures are resized before the features."""
    images: int = 64
    """Fresh avatars scored per concept; a folder's test split is used whole."""
    kid: bool = True
    """Of the first seed, at the end points of the run's own fine-tune."""
    fd_images: int = 0
    """Fresh avatars for the Fréchet distance at the end points; 0 = none, else at least 2048."""


@dataclass
class Compare:
    """Stage `compare`: every method of Table 1, each at its own budget (paper Sec. 5.1)."""

    methods: list[str] = field(
        default_factory=lambda: [
            "pix2pix-zero-distilled",
            "pix2pix",
            "E²GAN",
            "prediction",
            "prediction, E²GAN’s budget",
            "zero LoRA",
            "mean adapter",
            "nearest text",
            "ridge",
            "shuffled prompt",
        ]
    )
    """Controls take the prediction's budget."""
    concepts: int = 0
    """Held-out concepts, drawn by the seed, evenly of each set; 0 = all."""
    scratch_concepts: int = 8
    """Those of them on which networks are trained from scratch, too."""
    scratch_repeats: int = 1
    """Seeds of training from scratch; `repeats` of the others."""
    images: int = 2048
    """Fresh avatars scored per concept; a folder's test split is used whole. With fewer than 2048
    there is no Fréchet distance."""
    epochs: int = 20
    """The fine-tune of the prediction and of the controls, by the recipe of `adapt`."""
    e2gan_epochs: int = 100
    """By the recipe of `gans`, from zero LoRA."""
    coreset: int = 400
    """Training images of all methods that adapt the base, picked by k-means."""
    score_at: list[int] = field(default_factory=lambda: [1, 2, 5, 10, 20, 50, 100])
    """Epochs scored besides the first and the last, on compare.scratch_concepts."""
    timed_repeats: int = 3
    """Epochs timed for each method; the median counts."""


@dataclass
class Scratch(ScratchSettings):
    """What the from-scratch baselines of Table 1 have in common."""

    batch: int = 8


@dataclass
class Pix2Pix(Scratch):
    """The baseline pix2pix (modeling/baselines/pix2pix_training.py)."""

    width: int = 32
    """Of the generator: channels at full resolution."""
    blocks: int = 9
    """Of the ResNet generator."""
    downs: int = 2
    """Halvings of the side."""
    dropout: float = 0.5
    """Within the blocks, pix2pix's z."""
    norm: str = "batch"
    """batch | instance: of the generator. With batch=1, as published, they train alike, and only
    instance translates by the statistics of the image itself, which is published, too."""
    discriminator_width: int = 32
    """Channels after its first layer."""
    discriminator_layers: int = 2
    """Halvings; 3 judge patches of 70 × 70 pixels."""


@dataclass
class CoModGan(Scratch):
    """The baseline pix2pix-zero-distilled (modeling/baselines/comodgan_training.py)."""

    lr: float = 2e-3
    discriminator_lr: float = 2e-3
    constant: float = 1.0
    channel_base: int = 512
    """Channels times side in pixels, of every layer."""
    channel_max: int = 128
    """Most channels of a layer."""
    z_dim: int = 64
    """Size of the noise."""
    w_dim: int = 64
    """Size of the style."""
    mapping_layers: int = 2
    """From noise to style."""
    dropout: float = 0.5
    """Of the encoder's global code, while training."""
    r1: float = 10.0
    """γ of R1 on real pairs; 0 = none."""
    r1_interval: int = 16
    """Steps from one R1 update to the next."""
    ema_images: float = 10000.0
    """Half-life of the average that is kept, in images, but at most a twentieth of those seen;
    0 = the last weights."""
    path_length: float = 0.0
    """Weight of path-length regularisation; 0 = none."""


@dataclass
class Report:
    """Stage `report`: what its pages show."""

    pictures: int = 2
    """Test images shown per concept."""
    concepts: int = 6
    """Held-out concepts shown as pictures, of each held-out set."""
