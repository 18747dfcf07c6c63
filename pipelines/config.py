"""The typed configuration: schema, presets, command-line overrides, checks.

A preset is a YAML file in `pipelines/presets/`; it is data, no code asks for its name. Unknown
keys, wrong types and impossible combinations raise ConfigError with one line for the user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PRESETS = Path(__file__).parent / "presets"


class ConfigError(ValueError):
    """A configuration the user must change; its text is one clear line."""


@dataclass
class Images:
    """Source images. Split 80/10/10 into train, validation and test by image."""

    source: str = "avatars"
    """avatars | folder"""
    path: str = ""
    """Folder of pictures, for source=folder."""
    size: int = 32
    """Side in pixels."""
    count: int = 80
    paired: int = 24
    """Training images for a concept without an adapter (concepts.paired_*)."""


@dataclass
class Editing:
    """The diffusion editors (modeling/diffusion_editors); exact editors need none of it.

    Mappings are by editor's name, as in editing.steps.null_text=50.
    """

    candidates: list[str] = field(
        default_factory=lambda: [
            "img2img",
            "instruct_pix2pix",
            "null_text",
            "controlnet",
            "instruct_diffusion",
        ]
    )
    """For editor=best: each edits the pilot images to a concept, and the best edits the others."""
    pilots: int = 16
    """Training images on which the candidates are compared."""
    models: dict[str, str] = field(default_factory=dict)
    """A folder written by save_pretrained, or a hub id; else the method's published weights."""
    extras: dict[str, str] = field(default_factory=dict)
    """A second model: the ControlNet."""
    clip: str = ""
    """CLIP model that scores edits, a folder or hub id; empty = no scores."""
    identity: str = ""
    """Vision model that scores how much of the person is left, such as DINOv2; empty = CLIP."""
    exponents: dict[str, float] = field(default_factory=dict)
    """Of direction, identity and quality in their product; 1 where none is given."""
    least: dict[str, float] = field(default_factory=dict)
    """Least change, direction, identity or quality of a picture; one below is left out."""
    least_images: float = 0.5
    """A concept that keeps a smaller part of its images is left out."""
    inversions: int = 0
    """null_text: pictures whose inversion an actor keeps, 12 MB of memory each at 50 steps, to edit
    them to further concepts at a quarter of the cost."""
    batch: int = 8
    """Pictures a call; halved when memory runs out."""
    size: int = 0
    """Side at which the models edit (Stable Diffusion 1: 512); 0 = images.size."""
    dtype: str = "float32"
    """float32 | float16 | bfloat16"""
    attention: str = ""
    """diffusers' attention backend; empty = its default."""
    compile: bool = False
    checkpointing: bool = False
    """null_text only: a second forward pass instead of the memory of a backward pass."""
    steps: dict[str, int] = field(default_factory=dict)
    guidance: dict[str, float] = field(default_factory=dict)
    image_guidance: dict[str, float] = field(default_factory=dict)
    strength: dict[str, float] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    """Category → what describes the result, with {text}; else modeling/…/instructions.py's."""
    instructions: dict[str, str] = field(default_factory=dict)
    """Category → what says what to do, for the instructed editors."""
    part: int = 64
    """Pictures of a concept between two writes: no more are lost when an actor dies."""


@dataclass
class Concepts:
    """Which concepts there are, and which are held out (modeling/concepts.py)."""

    source: str = "grammar"
    """grammar | llm: written by a language model (section llm), of the keys below combinations
    alone are then used."""
    families: list[str] = field(default_factory=list)
    """Families to draw from; empty = all that the editor supports."""
    heldout_families: list[str] = field(default_factory=list)
    """Families of the test set that no training sees."""
    validation_families: list[str] = field(default_factory=list)
    """The same of the validation set."""
    paired_families: list[str] = field(default_factory=list)
    """Further training families, with pairs but no adapters: the image loss learns from them."""
    atoms_per_family: int = 0
    """0 = all."""
    train_atoms: int = -1
    """-1 = all that are not held out."""
    train_combinations: int = 0
    paired_combinations: int = 0
    """Further training combinations, with pairs but no adapter: the image loss learns from them."""
    val_atoms: int = 0
    val_combinations: int = 0
    val_families: int = 0
    test_atoms: int = 0
    test_combinations: int = 0
    test_families: int = 0
    paraphrases: int = 0
    """Per training concept; a paraphrase shares its parent's adapter."""
    combine: list[list[str]] = field(default_factory=list)
    """Tuples of families that may be combined; empty = pairs across categories."""


@dataclass
class PerCategory:
    """A number for each category of the paper."""

    art: int = 0
    characteristic: int = 0
    facial: int = 0


@dataclass
class LanguageModelKeys:
    """A language model and how it is asked (modeling/language_models.py)."""

    provider: str = "endpoint"
    """endpoint (OpenAI-compatible: vLLM, Ray Serve LLM, hosted) | local (transformers)"""
    model: str = ""
    """What the endpoint calls it; or a folder, or a cached hub id."""
    base_url: str = ""
    """Of the endpoint, such as http://127.0.0.1:8000/v1."""
    key_env: str = ""
    """Name of the environment variable that holds the endpoint's key; empty = no key."""
    response_format: str = "json_schema"
    """json_schema | json_object | none: what the endpoint supports."""
    temperature: float = 0.0
    max_tokens: int = 2048
    """Of an answer."""
    timeout_s: float = 120.0
    retries: int = 6
    """Of a request that meets a time-out, a lost connection, 429 or 5xx."""
    rate: float = 0.0
    """Requests a minute over all actors, retries included; 0 = any number."""
    concurrency: int = 8
    """Requests to an endpoint at once, over all actors."""
    batch: int = 8
    """Prompts at once in a local model."""
    input_price: float = 0.0
    """Per million tokens of prompts, in any currency."""
    output_price: float = 0.0
    """Per million tokens of answers."""


@dataclass
class Llm:
    """Concepts that a language model writes (modeling/concept_writer.py; paper Sec. 3.1, 5.1)."""

    counts: PerCategory = field(default_factory=PerCategory)
    """Written and distinct, held-out ones included."""
    test: PerCategory = field(default_factory=PerCategory)
    """Of these, held out for the test."""
    val: PerCategory = field(default_factory=PerCategory)
    """Of these, held out for validation."""
    paraphrases: PerCategory = field(default_factory=PerCategory)
    """Of training concepts, in all; spread evenly."""
    combine: list[list[str]] = field(default_factory=lambda: [["characteristic", "art"]])
    """Tuples of categories for concepts.*_combinations, in the order in which a text has them."""
    per_request: int = 20
    """Concepts asked for in one request."""
    paraphrased_together: int = 5
    """Concepts paraphrased in one request."""
    round_requests: int = 16
    """Requests for one category in a round; the next round sees what this one brought."""
    requests: int = 400
    """Budget of the writer, and of the paraphraser."""
    allow_fewer: bool = False
    """Go on with what there is when the budget is spent."""
    encoder: str = "minilm"
    """Text encoder that finds near-duplicates; the thresholds below are for it."""
    similarity: float = 0.85
    """Least cosine of near-duplicates, which differ in no word that matters."""
    word_similarity: float = 0.9
    """Least cosine of differing words that do not matter ("grey", "gray")."""
    paraphrase_similarity: float = 0.3
    """Least cosine of a paraphrase to its concept."""
    writer: LanguageModelKeys = field(default_factory=LanguageModelKeys)
    paraphraser: LanguageModelKeys = field(default_factory=LanguageModelKeys)
    """Without a model: the writer."""


DECIDE_ANSWERS = ("provider", "model", "response_format", "temperature", "max_tokens")
"""Keys of a language model that its answers depend on."""
DECIDE_WRITING = tuple(f.name for f in fields(Llm) if f.name not in ("writer", "paraphraser"))


@dataclass
class TranslatorShape:
    """The network that is adapted; each family (modeling/target_families.py) reads its own keys."""

    family: str = "e2gan"
    """e2gan (modeling/translator.py) | resnet (modeling/resnet_generator.py), which reads no
    prompt."""
    width: int = 16
    downs: int = 1
    edge_kernel: int = 7
    blocks: int = 9
    """ResNet blocks; resnet only."""
    heads: int = 4
    """This and the next two: e2gan's transformer block."""
    feed_forward: int = 2
    gated: bool = False
    dropout: float = 0.0
    global_skip: bool = True
    long_skips: bool = True
    """e2gan only."""


@dataclass
class DiscriminatorShape:
    width: int = 16
    layers: int = 2


@dataclass
class Lora:
    rank: int = 1
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank of single layers, by name."""
    seed: int = 0


@dataclass
class Base:
    """Training of the base translator on representative concepts (E²GAN)."""

    concepts: int = 16
    """How many, chosen by k-means over the text embeddings."""
    steps: int = 400
    batch: int = 16
    lr: float = 1e-3
    l1_weight: float = 100.0
    gan_weight: float = 1.0
    discriminator_lr: float = 2e-4
    checkpoint_every: int = 200
    workers: int = 1


@dataclass
class Gans:
    """Collection: one adapter per training concept, all by one recipe (Eq. 4)."""

    steps: int = 48
    """0 = found on pilot concepts by the convergence rule (modeling/convergence.py)."""
    batch: int = 16
    lr: float = 5e-3
    lr_floor: float = 0.0
    """Part of lr at which its cosine decay ends; 1 = a constant rate."""
    ema: float = 0.9
    l1_weight: float = 100.0
    gan_weight: float = 1.0
    discriminator_lr: float = 2e-4
    checkpoints: int = 1
    """K: how many checkpoints of one concept are kept, evenly over the last quarter."""
    concepts_per_batch: int = 4
    pilots: int = 4
    pilot_steps: int = 400
    pilot_score: str = "l1"
    """l1 | fd: validation L1, or the distance of evaluate.features: Fréchet from 2048 validation
    images on, the kernel distance (KID) with fewer."""
    pilot_tolerance: float = 0.02
    """Of the best score; with pilot_score=fd, of the score that training starts from."""


@dataclass
class Ranks:
    """The search for a rank per layer (modeling/rank_search.py), a command of its own."""

    choices: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Ranks that a layer may get; the search trains adapters of the highest."""
    score: str = "loss"
    """loss | energy: what a layer loses at a lower rank, in training L1 or of its change."""
    steps: int = 0
    """Of each training; 0 = gans.steps."""


@dataclass
class Weights:
    """The codec (modeling/codec.py; paper Sec. 4.2)."""

    block_size: int = 128
    grouping: int = 1
    """Rule 1, 2 or 3 of Table 3."""
    centre: str = "element"
    """element | tensor: what normalisation subtracts."""
    concepts: int = 0
    """Train on the adapters of this many training concepts, drawn by the seed; 0 = all. The weight
    generator and every control then see no others: the scaling curve."""


@dataclass
class Generator:
    """The weight generator and its training (paper Sec. 4.3)."""

    kind: str = "transformer"
    """transformer | unet (the paper's)"""
    width: int = 128
    depth: int = 4
    heads: int = 4
    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of the UNet's levels."""
    fold: int = 1
    """UNet only: neighbouring weights folded into channels of one place; 1 is the paper's."""
    block_conditioning: str = "index"
    """UNet only: index (the paper's) | none | previous (the index and the block before)"""
    prediction: str = "x0"
    """x0 | v | epsilon"""
    schedule: str = "squaredcos_cap_v2"
    t_min: int = 0
    """Training draws t from [t_min, 999]."""
    steps: int = 400
    batch: int = 16
    """Concepts a step."""
    blocks_per_concept: int = 0
    """Blocks of a concept in a step; 0 = all (the transformer needs all)."""
    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.99
    text_noise: float = 0.0
    """Deviation of Gaussian noise on the text embedding while training."""
    image_steps: int = 0
    """Further steps through the frozen translator on the image loss."""
    image_concepts: int = 4
    """Concepts a step: equally many with an adapter, and of each kind of concepts.paired_*."""
    image_batch: int = 12
    image_lr: float = 5e-4
    image_weight: float = 10.0
    """Weight of L1 there."""
    image_denoising: float = 0.1
    """Weight of Eq. (1) there; 0 saves its passes."""
    image_gan: float = 0.0
    """Weight of the adversarial term there; image_weight / 100 makes it the paper's Eq. (4)."""
    checkpoint_every: int = 200
    workers: int = 1


@dataclass
class Rival(Generator):
    """A second weight generator, trained and scored beside the first: the paper's, by default."""

    train: bool = False
    kind: str = "unet"


@dataclass
class Adapt:
    """Prediction for an unseen concept and the short fine-tune (paper Sec. 4.4)."""

    split: str = "test"
    """test | val: the held-out concepts. Choose hyper-parameters on val."""

    t: int = 999
    """Time step of the one-step recovery, near pure noise."""
    sampler: str = "one_step"
    """one_step | ddim"""
    ddim_steps: int = 20
    steps: int = 16
    batch: int = 16
    lr: float = 3e-3
    ema: float = 0.0
    l1_weight: float = 100.0
    gan_weight: float = 1.0
    discriminator_lr: float = 2e-4
    coreset: int = 64
    """Training images picked by k-means."""
    keep: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Steps, besides 0 and the last, at which every method is scored."""


@dataclass
class Evaluate:
    controls: list[str] = field(
        default_factory=lambda: [
            "zero LoRA",
            "mean adapter",
            "nearest text",
            "ridge",
            "shuffled prompt",
        ]
    )
    ceiling: bool = True
    """Also train an adapter per held-out concept from zero with the collection's recipe."""
    continued: bool = False
    """The same recipe from the prediction: does its head start last?"""
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
    features_size: int = 64
    """Side to which pictures are resized before the features."""
    images: int = 64
    """Fresh avatars scored per concept; a folder's test split is used whole."""
    kid: bool = True
    """Of the first seed, at the end points."""
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
class Scratch:
    """What the from-scratch baselines of Table 1 have in common (modeling/scratch_training.py)."""

    epochs: int = 200
    batch: int = 8
    lr: float = 2e-4
    l1_weight: float = 100.0
    gan_weight: float = 1.0
    discriminator_lr: float = 2e-4
    constant: float = 0.5
    """Part of the epochs at the full rates, which then fall linearly to 0; 1 = all."""
    jitter: int = 0
    """Pixels by which a pair is enlarged before it is cropped back at a random place."""
    flips: bool = False
    """Mirror every second pair, at random."""


@dataclass
class Pix2Pix(Scratch):
    """The baseline pix2pix (modeling/pix2pix_training.py)."""

    width: int = 32
    blocks: int = 9
    """Of the ResNet generator."""
    downs: int = 2
    dropout: float = 0.5
    norm: str = "batch"
    """batch | instance: of the generator. With batch=1, as published, they train alike, and only
    instance translates by the statistics of the image itself, which is published, too."""
    discriminator_width: int = 32
    discriminator_layers: int = 2


@dataclass
class CoModGan(Scratch):
    """The baseline pix2pix-zero-distilled (modeling/comodgan_training.py)."""

    lr: float = 2e-3
    discriminator_lr: float = 2e-3
    constant: float = 1.0
    channel_base: int = 512
    """Channels times side in pixels, of every layer."""
    channel_max: int = 128
    """Most channels of a layer."""
    z_dim: int = 64
    w_dim: int = 64
    mapping_layers: int = 2
    dropout: float = 0.5
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
    pictures: int = 2
    """Test images shown per concept."""
    concepts: int = 6
    """Held-out concepts shown as pictures, of each held-out set."""


@dataclass
class Serve:
    host: str = "127.0.0.1"
    port: int = 8000
    max_text: int = 200
    """Characters of a concept's text."""
    max_image_bytes: int = 4_000_000
    max_pixels: int = 25_000_000
    """Of an uploaded image, once decoded."""
    max_ongoing: int = 8
    """Requests worked on at once; further ones wait."""
    max_queued: int = 64
    """Requests that wait, per proxy; further ones get 503."""
    timeout_s: float = 60.0
    cache: int = 64
    """Predicted adapters kept in memory."""


@dataclass
class Cluster:
    """Where Ray runs and how a stage spreads; never part of a result."""

    address: str = ""
    """Ray address; empty = $RAY_ADDRESS, or else a local Ray."""
    actors: int = 2
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    editor_actors: dict[str, int] = field(default_factory=dict)
    """Editor → actors, where not `actors`."""
    editor_gpus: dict[str, float] = field(default_factory=dict)
    """Editor → GPUs of an actor, where not `gpus_per_actor`."""
    stall_timeout_s: int = 21600
    """A Ray Data stage of which no row has been finished for so long fails. One row may be a
    thousand edits; a cluster may wait for nodes."""
    gpu_training: bool = False
    """One GPU for each training worker."""
    shared_storage: bool = False
    """A local run_dir is a mount (NFS, Lustre) that every node sees."""
    training_threads: int = 0
    """Threads of a training worker; 0 = an equal share of the machine's cores."""
    nodes: int = 1
    """Machines of the cluster; `denoised-weights plan` reads it, Ray finds its nodes itself."""
    gpus_per_node: int = 0
    """GPUs of each; likewise."""


@dataclass
class Plan:
    """What `denoised-weights plan` assumes where it has not measured; never part of a result."""

    price: float = 0.0
    """Money for an hour of one GPU, or of one actor where there is none; 0 = not known."""
    evaluations: dict[str, int] = field(default_factory=dict)
    """Denoiser evaluations an edit, by editor; others by the method (pipelines/plan_rates.py)."""
    gpu_tflops: float = 495.0
    """Peak of one GPU in training, TF32 without sparsity (NVIDIA's data sheet, H100 SXM)."""
    training_utilisation: float = 0.1
    """Part of the peak that training reaches: the paper's E²GAN takes 198.5 s for 400 images × 100
    epochs on an H100, 202 images/s of 0.25 TFLOP (modeling/cost.py)."""
    finetune_utilisation: float = 0.094
    """The same of the fine-tune: 42.1 s for 400 images × 20 epochs, 190 images/s."""
    editor_tflops: float = 312.0
    """Peak of one GPU in the editors' float16, without sparsity (NVIDIA's data sheet, A100)."""
    editor_utilisation: float = 0.24
    """Part of it that a diffusion editor reaches: diffusers' documentation ("PyTorch 2.0") gives
    Stable Diffusion img2img 11.5 steps/s of 4 pictures on an A100, each step 2 × 0.80 TFLOP."""
    core_gflops: float = 70.0
    """What a CPU core reaches: 8 images of 0.15 GFLOP in 17 ms
    (tests/bench/results/serial_times_small.json)."""
    exact_edits_per_s: float = 470.0
    """Edits of an exact editor by one core, drawn and encoded: 127,080 in 136 s on two, 32×32
    (tuning/results/small/summary.json)."""
    texts_per_s: float = 200.0
    """Texts embedded by the driver: 6,561 in 33 s (the same)."""
    texts_loaded_per_s: float = 1000.0
    """Embeddings that one process reads back: 6,561 in 6 s (the same run)."""
    files_per_s: float = 1000.0
    """Small files that one process reads, one after another: 1 ms each on a local disk; an object
    store takes 100 ms and more (Amazon's guide to the performance of S3), so about 10."""
    write_mb_per_s: float = 100.0
    """What one actor writes to the run directory."""
    overhead_s: float = 5.0
    """Start and end of a stage's actors: `weights` of the demo takes 4.7 s
    (tests/bench/results/demo_stages.json)."""


@dataclass
class Config:
    preset: str = "demo"
    run_dir: str = "runs/${preset}"
    """Local path or fsspec URI (s3://bucket/prefix)."""
    seed: int = 0
    editor: str = "auto"
    """auto = avatar for avatars, filter for a folder; best = the best of editing.candidates for
    each concept; or one of modeling/editors.py."""
    text_encoder: str = "minilm"
    """minilm (packaged), or the folder or cached hub id of a transformers model such as CLIP."""
    repeats: int = 1
    """Seeds (seed, seed + 1, …) of weight-generator training and fine-tuning that are scored."""
    allow_download: bool = False
    """Whether missing models may be fetched from the hub; otherwise they must be there already."""
    verify: str = "content"
    """content | size: how finished work is checked before it is skipped. The paper's pairs are
    terabytes, which take long to read."""
    max_error_fraction: float = 0.05
    """A stage fails when more than this part of its rows is bad."""
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
    adapt: Adapt = field(default_factory=Adapt)
    evaluate: Evaluate = field(default_factory=Evaluate)
    compare: Compare = field(default_factory=Compare)
    pix2pix: Pix2Pix = field(default_factory=Pix2Pix)
    comodgan: CoModGan = field(default_factory=CoModGan)
    report: Report = field(default_factory=Report)
    serve: Serve = field(default_factory=Serve)
    cluster: Cluster = field(default_factory=Cluster)
    plan: Plan = field(default_factory=Plan)


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(overrides: Sequence[str]) -> Config:
    """Defaults ← preset ← `key=value` words; raises ConfigError."""
    words: dict[str, str] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key in words:
            raise ConfigError(f"{key} is given twice")
        words[key] = value
    preset = words.get("preset", Config.preset)
    if preset not in preset_names():
        raise ConfigError(f"preset={preset}: no such preset; there are {', '.join(preset_names())}")
    schema = OmegaConf.structured(Config)
    values = OmegaConf.load(PRESETS / f"{preset}.yaml")
    assert isinstance(values, DictConfig)
    # what a preset changes when the pictures are photographs, which allow art filters only
    photographs = values.pop("photographs", OmegaConf.create())
    tree = _merge(schema, values, f"preset {preset}")
    if words.get("images.source") == "folder":
        tree = _merge(tree, photographs, f"preset {preset}, photographs")
    tree = _merge(tree, OmegaConf.create({"preset": preset}), "preset")
    for key, value in words.items():
        try:
            # `key=` is an empty text, not YAML's null
            more = OmegaConf.from_dotlist([f"{key}={value or repr('')}"])
        except Exception as error:  # of many types: YAML's, OmegaConf's, its grammar's
            raise ConfigError(f"{key}={value}: cannot be read as YAML") from error
        tree = _merge(tree, more, f"{key}={value}", key)
    config = _to_config(tree)
    check(config)
    return config


def _merge(tree: DictConfig, more: Any, what: str, key: str = "") -> DictConfig:
    unknown = _unknown_key(Config, OmegaConf.to_container(more), "")
    if unknown:
        raise ConfigError(unknown)
    try:
        merged = OmegaConf.merge(tree, more)
    except (OmegaConfBaseException, TypeError) as error:
        # OmegaConf does not always name the key, such as that of a list inside a list
        name = (getattr(error, "full_key", None) or key).partition("[")[0]
        wrong = (
            f"{name} must be {_in_words(_type_of(name))}" if name else str(error).splitlines()[0]
        )
        raise ConfigError(f"{what}: {wrong}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _to_config(tree: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, Config)
    return config


def _type_of(key: str) -> Any:
    """The schema's type of a dotted key; of the mapping, for a key inside one."""
    kind: Any = Config
    for part in key.split("."):
        if is_dataclass(kind):
            kind = get_type_hints(kind)[part]
    return kind


def _in_words(kind: Any) -> str:
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[str]: "a list such as [a, b]",
        list[int]: "a list of whole numbers such as [1, 2]",
        list[list[str]]: "a list of lists such as [[a, b], [c, d]]",
        dict[str, int]: "a mapping to whole numbers such as {a: 1}",
        dict[str, float]: "a mapping to numbers such as {a: 0.5}",
        dict[str, str]: "a mapping to texts such as {a: text}",
    }
    return words[kind]


def _unknown_key(schema: type, given: Any, prefix: str) -> str:
    """A sentence about the first key that the schema does not have, or ''."""
    import difflib

    if not isinstance(given, dict):
        return "" if not prefix else f"{prefix[:-1]} is a section: give {prefix}KEY=value"
    known = {f.name: f for f in fields(schema)}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            there = ", ".join(known)
            return f"unknown key {prefix}{key}{hint} ({prefix or 'top level '}has: {there})"
        factory = known[key].default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            problem = _unknown_key(factory, value, f"{prefix}{key}.")
            if problem:
                return problem
    return ""


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def to_dict(config: Config) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(tree, dict)
    return {str(k): v for k, v in tree.items()}


MAPPINGS = {
    "lora.ranks",
    *(f"editing.{k}" for k in ("models", "extras", "exponents", "least", "steps", "guidance")),
    *(f"editing.{k}" for k in ("image_guidance", "strength", "prompts", "instructions")),
    "cluster.editor_actors",
    "cluster.editor_gpus",
    "plan.evaluations",
}
"""Keys whose values are mappings with keys of the user's."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of a nested configuration; those of MAPPINGS whole."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) and name not in MAPPINGS
        out |= flat(value, f"{name}.") if nested else {name: value}
    return out


def from_dict(tree: dict[str, Any]) -> Config:
    """Inverse of `to_dict`, strict."""
    return _to_config(
        _merge(OmegaConf.structured(Config), OmegaConf.create(tree), "saved configuration")
    )


def exact_editor(config: Config) -> bool:
    """Whether the editor draws the true edit of any picture, at next to no cost."""
    from modeling.editors import EXACT

    return resolve_editor(config) in EXACT


def resolve_editor(config: Config) -> str:
    if config.editor != "auto":
        return config.editor
    return "avatar" if config.images.source == "avatars" else "filter"


def _choice(key: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(str(a) for a in allowed)}")


CONTROLS = (
    "zero LoRA",
    "mean adapter",
    "nearest text",
    "ridge",
    "shuffled prompt",
    "noised nearest",
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
GENERATOR_LEAST = {
    "fold": 1,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "steps": 1,
    "batch": 1,
    "blocks_per_concept": 0,
    "text_noise": 0,
    "image_steps": 0,
    "image_gan": 0,
    "image_denoising": 0,
    "image_concepts": 1,
    "image_batch": 1,
    "checkpoint_every": 1,
    "workers": 1,
}
SCRATCH_LEAST = {
    "epochs": 1,
    "batch": 1,
    "l1_weight": 0,
    "gan_weight": 0,
    "constant": 0,
    "jitter": 0,
}
LANGUAGE_MODEL_LEAST = {
    "temperature": 0,
    "max_tokens": 1,
    "timeout_s": 0.001,
    "retries": 0,
    "rate": 0,
    "concurrency": 1,
    "batch": 1,
    "input_price": 0,
    "output_price": 0,
}
LEAST = {
    "seed": 0,
    "repeats": 1,
    "max_error_fraction": 0,
    "images.size": 16,
    "images.count": 10,
    "images.paired": 1,
    "editing.pilots": 1,
    "editing.batch": 1,
    "editing.size": 0,
    "editing.inversions": 0,
    "editing.part": 1,
    "editing.least_images": 0,
    **{
        f"llm.{key}.{category}": 0
        for key in ("counts", "test", "val", "paraphrases")
        for category in ("art", "characteristic", "facial")
    },
    "llm.per_request": 1,
    "llm.paraphrased_together": 1,
    "llm.round_requests": 1,
    "llm.requests": 1,
    **{f"llm.writer.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    **{f"llm.paraphraser.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    "translator.width": 4,
    "translator.downs": 1,
    "translator.edge_kernel": 1,
    "translator.blocks": 1,
    "translator.heads": 1,
    "translator.feed_forward": 1,
    "discriminator.width": 1,
    "lora.rank": 1,
    "base.concepts": 1,
    "base.steps": 1,
    "base.batch": 1,
    "base.checkpoint_every": 1,
    "base.workers": 1,
    "gans.steps": 0,
    "gans.batch": 1,
    "gans.checkpoints": 1,
    "gans.concepts_per_batch": 1,
    "gans.pilots": 1,
    "gans.pilot_steps": 1,
    "ranks.steps": 0,
    "weights.block_size": 8,
    "weights.concepts": 0,
    **{f"generator.{key}": least for key, least in GENERATOR_LEAST.items()},
    **{f"rival.{key}": least for key, least in GENERATOR_LEAST.items()},
    "adapt.steps": 0,
    "adapt.batch": 1,
    "adapt.coreset": 1,
    "adapt.ddim_steps": 1,
    "evaluate.images": 1,
    "evaluate.scratch_steps": 0,
    "evaluate.scratch_concepts": 1,
    "compare.concepts": 0,
    "compare.scratch_concepts": 0,
    "compare.scratch_repeats": 1,
    "compare.images": 2,
    "compare.epochs": 1,
    "compare.e2gan_epochs": 1,
    "compare.coreset": 1,
    "compare.timed_repeats": 1,
    **{f"pix2pix.{key}": least for key, least in SCRATCH_LEAST.items()},
    "pix2pix.width": 1,
    "pix2pix.blocks": 1,
    "pix2pix.downs": 0,
    "pix2pix.discriminator_width": 1,
    "pix2pix.discriminator_layers": 1,
    **{f"comodgan.{key}": least for key, least in SCRATCH_LEAST.items()},
    "comodgan.channel_base": 1,
    "comodgan.channel_max": 1,
    "comodgan.z_dim": 1,
    "comodgan.w_dim": 1,
    "comodgan.mapping_layers": 1,
    "comodgan.r1": 0,
    "comodgan.r1_interval": 1,
    "comodgan.ema_images": 0,
    "comodgan.path_length": 0,
    "report.pictures": 0,
    "report.concepts": 0,
    "cluster.actors": 1,
    "cluster.stall_timeout_s": 1,
    "cluster.cpus_per_actor": 0,
    "cluster.gpus_per_actor": 0,
    "cluster.nodes": 1,
    "cluster.gpus_per_node": 0,
    "plan.price": 0,
    "plan.overhead_s": 0,
}
RATES = (
    "base.lr",
    "gans.lr",
    "generator.lr",
    "generator.image_lr",
    "rival.lr",
    "rival.image_lr",
    "adapt.lr",
    "pix2pix.lr",
    "pix2pix.discriminator_lr",
    "comodgan.lr",
    "comodgan.discriminator_lr",
    "plan.gpu_tflops",
    "plan.editor_tflops",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
    "plan.core_gflops",
    "plan.exact_edits_per_s",
    "plan.texts_per_s",
    "plan.texts_loaded_per_s",
    "plan.files_per_s",
    "plan.write_mb_per_s",
)
FRACTIONS = (
    "translator.dropout",
    "gans.ema",
    "generator.ema",
    "rival.ema",
    "adapt.ema",
    "pix2pix.dropout",
    "comodgan.dropout",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
)


def check(config: Config) -> None:
    """Raise ConfigError on an impossible combination."""
    from modeling.editors import DIFFUSION, EXACT

    c = config
    _choice("images.source", c.images.source, ("avatars", "folder"))
    _choice("editor", c.editor, ("auto", "best", *EXACT, *DIFFUSION))
    _choice("verify", c.verify, ("content", "size"))
    _check_editing(c, tuple(DIFFUSION))
    if c.images.source == "folder" and not c.images.path:
        raise ConfigError("images.source=folder needs images.path=DIR")
    if c.images.source == "avatars" and c.images.path:
        raise ConfigError("images.path is set but images.source=avatars: use images.source=folder")
    if c.images.source == "folder" and resolve_editor(c) == "avatar":
        raise ConfigError(
            "editor=avatar edits avatars only: use editor=filter with images.source=folder"
        )
    _choice("weights.grouping", c.weights.grouping, (1, 2, 3))
    _choice("weights.centre", c.weights.centre, ("element", "tensor"))
    _choice("adapt.split", c.adapt.split, ("test", "val"))
    _choice("adapt.sampler", c.adapt.sampler, ("one_step", "ddim"))
    _choice("evaluate.features", c.evaluate.features, ("efficientnet", "inception", "clip"))
    for method in c.evaluate.controls:
        _choice("evaluate.controls", method, CONTROLS)
    for method in c.compare.methods:
        _choice("compare.methods", method, COMPARED)
    if len(set(c.compare.methods)) < len(c.compare.methods):
        raise ConfigError(f"compare.methods={c.compare.methods}: a method is given twice")
    if any(e < 1 for e in c.compare.score_at):
        raise ConfigError(f"compare.score_at={c.compare.score_at}: epochs start at 1")
    for key, least in LEAST.items():
        value = attrgetter(key)(c)
        if not least <= value < math.inf:  # nor NaN
            raise ConfigError(f"{key}={value}: must be at least {least}")
    for key in RATES:
        value = attrgetter(key)(c)
        if not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: must be more than 0")
    for key in FRACTIONS:
        value = attrgetter(key)(c)
        if not 0 <= value < 1:
            raise ConfigError(f"{key}={value}: must lie in [0, 1)")
    _check_concepts(c)
    for layer, rank in c.lora.ranks.items():
        if rank < 1:
            raise ConfigError(f"lora.ranks.{layer}={rank}: must be at least 1")
    if not 0 <= c.gans.lr_floor <= 1:
        raise ConfigError(f"gans.lr_floor={c.gans.lr_floor}: is a part of gans.lr, from 0 to 1")
    _choice("gans.pilot_score", c.gans.pilot_score, ("l1", "fd"))
    room = max(1, c.gans.steps // 4)
    if c.gans.steps and c.gans.checkpoints > room:
        raise ConfigError(
            f"gans.checkpoints={c.gans.checkpoints}: the last quarter of gans.steps={c.gans.steps}"
            f" has room for {room}"
        )
    _choice("ranks.score", c.ranks.score, ("loss", "energy"))
    if len(set(c.ranks.choices)) < 2 or min(c.ranks.choices) < 1:
        raise ConfigError(f"ranks.choices={c.ranks.choices}: two or more ranks, each at least 1")
    for key in ("run_dir", "text_encoder"):
        if not attrgetter(key)(c):
            raise ConfigError(f"{key}: must not be empty")
    _check_translator(c)
    for name in ("generator", "rival"):
        _check_generator(c, name)
    if any(not 0 < k < max(c.adapt.steps, 1) for k in c.adapt.keep):
        raise ConfigError(
            f"adapt.keep={c.adapt.keep}: must lie between 0 and adapt.steps={c.adapt.steps}"
        )
    _choice("pix2pix.norm", c.pix2pix.norm, ("batch", "instance"))
    for section in ("pix2pix", "comodgan"):
        constant = attrgetter(section)(c).constant
        if constant > 1:
            raise ConfigError(f"{section}.constant={constant}: is a part, at most 1")
    if c.evaluate.fd_images and c.evaluate.fd_images < 2048:
        raise ConfigError(
            "evaluate.fd_images: a Fréchet distance needs at least 2048 images, or 0 for none"
        )
    if c.evaluate.fd_images and not (c.images.source == "avatars" and exact_editor(c)):
        raise ConfigError(
            "evaluate.fd_images: fresh pairs exist for images.source=avatars with an exact editor"
        )


def _check_translator(c: Config) -> None:
    from modeling.target_families import target_config
    from modeling.target_network import TargetError

    try:
        # a shape is possible or not whatever the text encoder, which is not loaded here
        shape = target_config(c.translator.family, vars(c.translator), text_dim=1)
    except TargetError as error:
        raise ConfigError(f"translator.{error}") from error
    if c.images.size % shape.multiple or c.images.size < shape.least_side:
        raise ConfigError(
            f"images.size={c.images.size}: must be a multiple of {shape.multiple}, at least"
            f" {shape.least_side}, with this translator"
        )


GRAMMAR_ONLY = (
    *("families", "heldout_families", "validation_families", "paired_families", "combine"),
    *("atoms_per_family", "train_atoms", "val_atoms", "val_families"),
    *("test_atoms", "test_families", "paraphrases"),
)
"""Keys of `concepts` that a language model has no use for."""


def _check_concepts(c: Config) -> None:
    _choice("concepts.source", c.concepts.source, ("grammar", "llm"))
    for key in ("similarity", "word_similarity", "paraphrase_similarity"):
        value = getattr(c.llm, key)
        if not -1 <= value <= 1:
            raise ConfigError(f"llm.{key}={value}: is a cosine, from -1 to 1")
    for names in c.llm.combine:
        for name in names:
            _choice("llm.combine", name, [f.name for f in fields(PerCategory)])
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"llm.combine: {names} must be two or more different categories")
    roles = {"writer": c.llm.writer, "paraphraser": c.llm.paraphraser}
    for role, keys in roles.items():
        _choice(f"llm.{role}.provider", keys.provider, ("endpoint", "local"))
        formats = ("json_schema", "json_object", "none")
        _choice(f"llm.{role}.response_format", keys.response_format, formats)
    if c.concepts.source == "grammar":
        return
    if exact_editor(c):
        raise ConfigError(
            f"concepts.source=llm: the exact editor {resolve_editor(c)} can draw only what the"
            " grammar says; give a diffusion editor, such as editor=instruct_pix2pix, or"
            " concepts.source=grammar"
        )
    default = Concepts()
    foreign = [k for k in GRAMMAR_ONLY if getattr(c.concepts, k) != getattr(default, k)]
    if foreign:
        words = " ".join(f"concepts.{k}={getattr(default, k)}" for k in foreign)
        raise ConfigError(
            f"concepts.{foreign[0]} is for concepts.source=grammar; with llm give {words}"
        )
    if not any(vars(c.llm.counts).values()):
        raise ConfigError("concepts.source=llm needs llm.counts, such as llm.counts.art=226")
    for category, count in vars(c.llm.counts).items():
        held = getattr(c.llm.test, category) + getattr(c.llm.val, category)
        if held and held >= count:
            raise ConfigError(
                f"llm.counts.{category}={count}: must be more than the {held} that are held out"
            )
        if not count and getattr(c.llm.paraphrases, category):
            raise ConfigError(f"llm.paraphrases.{category}: llm.counts.{category} is 0")
    # said before anything is paid for
    most = sum(math.prod(_trained(c.llm, name) for name in names) for names in c.llm.combine)
    k = c.concepts
    wanted = k.train_combinations + k.paired_combinations + k.val_combinations
    wanted += k.test_combinations
    if wanted > most:
        raise ConfigError(
            f"concepts.*_combinations: {wanted} wanted, but the training concepts of llm.counts"
            f" make {most} by llm.combine={c.llm.combine}"
        )
    if not c.llm.encoder:
        raise ConfigError("llm.encoder: must not be empty")
    for role, keys in roles.items():
        if not keys.model and role == "paraphraser":
            continue
        if not keys.model:
            raise ConfigError("concepts.source=llm needs llm.writer.model")
        if keys.provider == "endpoint" and not keys.base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"llm.{role}.base_url={keys.base_url}: must be the endpoint's address, such as"
                " http://127.0.0.1:8000/v1"
            )


def _trained(llm: Llm, category: str) -> int:
    """Concepts of a category that are not held out."""
    count, test, val = (getattr(x, category) for x in (llm.counts, llm.test, llm.val))
    return int(count - test - val)


def check_baseline(c: Config, method: str) -> None:
    """Raise ConfigError where a from-scratch baseline cannot take images of images.size."""
    _choice("method", method, BASELINES)
    size, k = c.images.size, c.pix2pix
    if method == "pix2pix":
        multiple = 2**k.downs
        if size % multiple or size < 4 * multiple:
            raise ConfigError(
                f"images.size={size}: must be a multiple of {multiple}, {4 * multiple} or more,"
                f" with pix2pix.downs={k.downs}"
            )
        # every layer halves the side, and two more convolutions shorten it by 1 each
        least = 2**k.discriminator_layers * 4
        if size < least:
            raise ConfigError(
                f"images.size={size}: must be at least {least} with"
                f" pix2pix.discriminator_layers={k.discriminator_layers}"
            )
        return
    if size < 16 or size & (size - 1):
        raise ConfigError(f"images.size={size}: {method} takes a power of two, 16 or more")
    if c.comodgan.channel_base < size:
        raise ConfigError(
            f"comodgan.channel_base={c.comodgan.channel_base}: must be at least images.size={size}"
        )


def _check_editing(c: Config, editors: Sequence[str]) -> None:
    """editors: those that are diffusion models."""
    e = c.editing
    _choice("editing.dtype", e.dtype, ("float32", "float16", "bfloat16"))
    for name in e.candidates:
        _choice("editing.candidates", name, editors)
    named: dict[str, Mapping[str, object]] = {
        **{f"editing.{k}": getattr(e, k) for k in ("models", "extras", "steps", "guidance")},
        **{f"editing.{k}": getattr(e, k) for k in ("image_guidance", "strength")},
        "cluster.editor_actors": c.cluster.editor_actors,
        "cluster.editor_gpus": c.cluster.editor_gpus,
    }
    for key, mapping in named.items():
        for name in mapping:
            if name not in editors:
                raise ConfigError(f"{key}.{name}: no such editor; there are {', '.join(editors)}")
    for name, strength in e.strength.items():
        if not 0 < strength <= 1:
            raise ConfigError(f"editing.strength.{name}={strength:g}: is in (0, 1]")
    categories = ("facial", "characteristic", "art", "combined")
    for key, templates in (("prompts", e.prompts), ("instructions", e.instructions)):
        for category, template in templates.items():
            _choice(f"editing.{key}", category, categories)
            if "{text}" not in template:
                raise ConfigError(f"editing.{key}.{category}: must contain {{text}}")
    scored = ("direction", "identity", "quality")
    for name in e.exponents:
        _choice("editing.exponents", name, scored)
    for name in e.least:
        _choice("editing.least", name, ("change", *scored))
    if c.editor == "best" and not (e.candidates and e.clip):
        raise ConfigError(
            "editor=best compares editing.candidates by a CLIP model: give both, such as"
            " editing.clip=openai/clip-vit-large-patch14"
        )
    if not e.clip and set(e.least) & set(scored):
        raise ConfigError(f"editing.least.{min(set(e.least) & set(scored))} needs editing.clip")
    if e.least_images > 1:
        raise ConfigError(f"editing.least_images={e.least_images}: is a part, at most 1")
    exact = exact_editor(c)
    if exact and (e.least or e.clip):
        key = "least" if e.least else "clip"
        raise ConfigError(f"editing.{key} is for diffusion editors, and the editor is an exact one")


def _check_generator(c: Config, name: str) -> None:
    """The checks of a section that describes a weight generator: generator or rival."""
    g: Generator = attrgetter(name)(c)
    _choice(f"{name}.kind", g.kind, ("transformer", "unet"))
    _choice(f"{name}.prediction", g.prediction, ("x0", "v", "epsilon"))
    conditionings = ("index", "none", "previous")
    _choice(f"{name}.block_conditioning", g.block_conditioning, conditionings)
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2")
    _choice(f"{name}.schedule", g.schedule, schedules)
    if g.width % g.heads:
        raise ConfigError(f"{name}.heads={g.heads}: must divide {name}.width={g.width}")
    if g.kind == "unet" and (not g.channels or any(n < 1 or n % g.heads for n in g.channels)):
        raise ConfigError(
            f"{name}.channels={g.channels}: one or more numbers, each a multiple of"
            f" {name}.heads={g.heads}"
        )
    if g.kind == "unet" and c.weights.block_size % g.fold:
        raise ConfigError(
            f"{name}.fold={g.fold}: must divide weights.block_size={c.weights.block_size}"
        )
    if g.kind == "transformer" and g.blocks_per_concept:
        raise ConfigError(
            f"{name}.blocks_per_concept: the transformer needs all blocks, set it to 0"
        )
    if not 0 <= g.t_min <= 999:
        raise ConfigError(f"{name}.t_min={g.t_min}: must lie in 0 … 999")
    if name == "rival" and not c.rival.train:
        return
    pools = 1 + bool(c.concepts.paired_combinations) + bool(c.concepts.paired_families)
    if g.image_steps and g.image_concepts < pools:
        raise ConfigError(
            f"{name}.image_concepts={g.image_concepts}: a step needs at least {pools} concepts, one"
            " with an adapter and one each of concepts.paired_*"
        )
    if not g.t_min <= c.adapt.t <= 999:
        raise ConfigError(
            f"adapt.t={c.adapt.t}: must lie in {name}.t_min={g.t_min} … 999,"
            " the time steps the weight generator is trained on"
        )
    if c.adapt.sampler == "ddim" and g.kind == "unet" and g.block_conditioning == "previous":
        raise ConfigError(
            f"{name}.block_conditioning=previous predicts in one step: use adapt.sampler=one_step"
        )
    if c.adapt.sampler == "ddim" and g.t_min > 0:
        raise ConfigError(f"adapt.sampler=ddim visits all time steps: it needs {name}.t_min=0")
