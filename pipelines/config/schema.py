"""The typed configuration: every key, its type, its default and the words that explain it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from modeling.baselines.recipe import ScratchSettings
from modeling.concepts.recipe import ConceptSpec, LanguageModelSettings, WritingSettings
from modeling.targets.recipe import AdapterTraining, Collecting, Training
from modeling.weights.recipe import GeneratorTrainingSettings

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
    """The diffusion editors (modeling/editors/diffusion); exact editors need none of it.

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
class Concepts(ConceptSpec):
    """Which concepts there are, and which are held out (modeling/concepts/planning.py)."""

    source: str = "grammar"
    """grammar | llm: written by a language model (section llm), of the keys below combinations
    alone are then used."""


@dataclass
class PerCategory:
    """A number for each category of the paper."""

    art: int = 0
    characteristic: int = 0
    facial: int = 0


@dataclass
class LanguageModelKeys(LanguageModelSettings):
    """A language model, how it is asked and what it costs."""

    concurrency: int = 8
    """Requests to an endpoint at once, over all actors."""
    input_price: float = 0.0
    """Per million tokens of prompts, in any currency."""
    output_price: float = 0.0
    """Per million tokens of answers."""


@dataclass
class Llm(WritingSettings):
    """Concepts that a language model writes (modeling/concepts/writer.py; paper Sec. 3.1, 5.1)."""

    counts: PerCategory = field(default_factory=PerCategory)
    """Written and distinct, held-out ones included."""
    test: PerCategory = field(default_factory=PerCategory)
    """Of these, held out for the test."""
    val: PerCategory = field(default_factory=PerCategory)
    """Of these, held out for validation."""
    paraphrases: PerCategory = field(default_factory=PerCategory)
    """Of training concepts, in all; spread evenly."""
    encoder: str = "minilm"
    """Text encoder that finds near-duplicates; the thresholds below are for it."""
    similarity: float = 0.85
    """Least cosine of near-duplicates, which differ in no word that matters."""
    word_similarity: float = 0.9
    """Least cosine of differing words that do not matter ("grey", "gray")."""
    writer: LanguageModelKeys = field(default_factory=LanguageModelKeys)
    paraphraser: LanguageModelKeys = field(default_factory=LanguageModelKeys)
    """Without a model: the writer."""


DECIDE_ANSWERS = ("provider", "model", "response_format", "temperature", "max_tokens")
"""Keys of a language model that its answers depend on."""
DECIDE_WRITING = tuple(f.name for f in fields(Llm) if f.name not in ("writer", "paraphraser"))


@dataclass
class TranslatorShape:
    """The network that is adapted; each family (modeling/targets/families.py) reads its own
    keys."""

    family: str = "e2gan"
    """e2gan (modeling/targets/translator.py) | resnet (modeling/targets/resnet_generator.py), which
    reads no prompt."""
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
class Base(Training):
    """Training of the base translator on representative concepts (E²GAN)."""

    steps: int = 400
    batch: int = 16
    lr: float = 1e-3
    concepts: int = 16
    """How many, chosen by k-means over the text embeddings."""
    checkpoint_every: int = 200
    workers: int = 1


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
    pilots: int = 4
    pilot_steps: int = 400
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
    steps: int = 400
    batch: int = 16
    """Concepts a step."""
    lr: float = 1e-3
    image_concepts: int = 4
    """Concepts a step: equally many with an adapter, and of each kind of concepts.paired_*."""
    image_batch: int = 12
    checkpoint_every: int = 200
    workers: int = 1


@dataclass
class Rival(Generator):
    """A second weight generator, trained and scored beside the first: the paper's, by default."""

    train: bool = False
    kind: str = "unet"


@dataclass
class Adapt(AdapterTraining):
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
class Scratch(ScratchSettings):
    """What the from-scratch baselines of Table 1 have in common."""

    batch: int = 8


@dataclass
class Pix2Pix(Scratch):
    """The baseline pix2pix (modeling/baselines/pix2pix_training.py)."""

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
    """The baseline pix2pix-zero-distilled (modeling/baselines/comodgan_training.py)."""

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
class Replicas:
    """How many copies of one part of the service run, and what each of them takes."""

    least: int = 1
    most: int = 1
    """More than `least` lets Serve add copies while requests wait, and take them away again."""
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = 8
    """Requests worked on together at most."""
    wait_ms: float = 2.0
    """How long a first request waits for others to come with it."""
    up_s: float = 30.0
    """Seconds of too many requests (Serve averages over 30 s) before a copy is added."""
    down_s: float = 600.0
    """Seconds of too few before one is taken away."""


@dataclass
class LightReplicas(Replicas):
    """Parts that need less than a core."""

    cpus: float = 0.5
    batch: int = 32


@dataclass
class Serve:
    host: str = "127.0.0.1"
    port: int = 8000
    require_key: bool = False
    """Whether clients must send one of the keys in $DENOISED_WEIGHTS_API_KEYS."""
    max_text: int = 200
    """Characters of a concept's text."""
    max_image_bytes: int = 4_000_000
    max_pixels: int = 25_000_000
    """Of an uploaded image, once decoded."""
    max_upload_bytes: int = 64_000_000
    """Of all pictures of a fine-tune."""
    max_steps: int = 50
    """Evaluations of the weight generator for one adapter."""
    max_ongoing: int = 32
    """Requests worked on at once by a copy of the HTTP part; further ones wait."""
    max_queued: int = 64
    """Requests that wait for a copy of the HTTP part; further ones get 503."""
    timeout_s: float = 60.0
    cache: int = 64
    """Adapters that a translator keeps merged, and a weight generator as tensors."""
    max_pairs: int = 64
    """Of an uploaded fine-tune."""
    max_finetune_steps: int = 500
    finetunes: int = 1
    """Fine-tunes that run at once."""
    finetunes_waiting: int = 8
    """Fine-tunes that wait; further ones get 503."""
    finetunes_kept: int = 100
    """Fine-tunes whose files are kept; the oldest go first."""
    api: LightReplicas = field(default_factory=LightReplicas)
    text: LightReplicas = field(default_factory=LightReplicas)
    weights: Replicas = field(default_factory=Replicas)
    translator: Replicas = field(default_factory=Replicas)


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
    training_cpus: float = 1.0
    """Logical CPUs of a training worker; Ray Data reads with those that no worker takes."""
    least_workers: int = 0
    """Where nodes are missing, training goes on with as few workers as this, each with the batch it
    had, and takes in more when they come (elastic); 0 = it waits for all."""
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
    """Denoiser evaluations an edit, by editor; others by the method (pipelines/plan/rates.py)."""
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
