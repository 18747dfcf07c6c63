"""The typed configuration: every key, its type, its default and the words that explain it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.config.sections.data import Concepts, Editing, Images, Llm
from pipelines.config.sections.finetune import Adapt, Refine
from pipelines.config.sections.operation import Cluster, Plan, Serve
from pipelines.config.sections.scoring import CoModGan, Compare, Evaluate, Pix2Pix, Report, Starts
from pipelines.config.sections.training import (
    Base,
    DiscriminatorShape,
    Gans,
    Generator,
    Lora,
    Ranks,
    Rival,
    TranslatorShape,
    Weights,
)


@dataclass
class Config:
    preset: str = "demo"
    """A file of values in pipelines/config/presets."""
    run_dir: str = "runs/${preset}"
    """Local path or fsspec URI (s3://bucket/prefix)."""
    runs: dict[str, str] = field(default_factory=dict)
    """For `serve`, instead of run_dir: name → run directory, the first for requests that name
    none."""
    seed: int = 0
    """Of every random choice of the run."""
    editor: str = "auto"
    """auto = avatar for avatars, filter for a folder; best = the best of editing.candidates for
    each concept; or one of modeling/editors/registry.py."""
    text_encoder: str = "minilm"
    """minilm (packaged), or the folder or cached hub id of a transformers model such as CLIP."""
    repeats: int = 1
    """Seeds (seed, seed + 1, …) of weight-generator training and fine-tuning that are scored."""
    allow_download: bool = False
    """Whether missing models may be fetched from the hub; otherwise they must be there already."""
    verify: str = "content"
    """content | size: how finished work is checked before it is skipped. The paper's pairs are
    terabytes, which take long to read."""
    precision: str = "auto"
    """auto | float32 | tf32 | bfloat16: of the networks' passes in training; auto = tf32, which is
    float32 without a GPU. Weights, losses, averages and what is scored are float32 in any case."""
    max_error_fraction: float = 0.05
    """A stage fails when more than this part of its rows is bad."""
    tracking: str = ""
    """tensorboard | mlflow | wandb: gets curves and pictures of base, generator, compare and tune;
    "" = none."""
    tracking_place: str = ""
    """Where they go, a folder or MLflow's server; "" = the folder tracking in run_dir."""
    redo: list[str] = field(default_factory=list)
    """Stages to delete and make again, with all that follow."""
    images: Images = field(default_factory=Images)
    editing: Editing = field(default_factory=Editing)
    concepts: Concepts = field(default_factory=Concepts)
    llm: Llm = field(default_factory=Llm)
    translator: TranslatorShape = field(default_factory=TranslatorShape)
    discriminator: DiscriminatorShape = field(default_factory=DiscriminatorShape)
    lora: Lora = field(default_factory=Lora)
    base: Base = field(default_factory=Base)
    gans: Gans = field(default_factory=Gans)
    ranks: Ranks = field(default_factory=Ranks)
    weights: Weights = field(default_factory=Weights)
    generator: Generator = field(default_factory=Generator)
    rival: Rival = field(default_factory=Rival)
    refine: Refine = field(default_factory=Refine)
    starts: Starts = field(default_factory=Starts)
    adapt: Adapt = field(default_factory=Adapt)
    evaluate: Evaluate = field(default_factory=Evaluate)
    compare: Compare = field(default_factory=Compare)
    pix2pix: Pix2Pix = field(default_factory=Pix2Pix)
    comodgan: CoModGan = field(default_factory=CoModGan)
    report: Report = field(default_factory=Report)
    serve: Serve = field(default_factory=Serve)
    cluster: Cluster = field(default_factory=Cluster)
    plan: Plan = field(default_factory=Plan)
