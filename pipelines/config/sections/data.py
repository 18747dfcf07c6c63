"""What is learned from: pictures, editors, concepts and the language model that writes them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from modeling.concepts.recipe import ConceptSpec, LanguageModelSettings, WritingSettings


@dataclass
class Images:
    """Source images. Split 80/10/10 into train, validation and test by image."""

    source: str = "avatars"
    """avatars | folder"""
    path: str = ""
    """Folder of pictures, or a URI such as s3://…, for source=folder."""
    size: int = 32
    """Side in pixels."""
    count: int = 80
    """Source pictures; of a folder, its first by name."""
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
    loras: dict[str, str] = field(default_factory=dict)
    """LoRA weights to merge into a model: FILE.safetensors, or OWNER/NAME:FILE of the hub."""
    schedulers: dict[str, str] = field(default_factory=dict)
    """A scheduler of diffusers and its settings: "LCMScheduler", "EulerDiscreteScheduler
    timestep_spacing=trailing"; else the model's own."""
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
    """Pictures a call; halved when memory runs out. 0 = what fits, remembered by device and
    model."""
    size: int = 0
    """Side at which the models edit (Stable Diffusion 1: 512); 0 = images.size."""
    dtype: str = "float32"
    """float32 | float16 | bfloat16"""
    attention: str = ""
    """diffusers' attention backend; empty = its default."""
    compile: bool = False
    """Compile the models' networks (torch.compile)."""
    checkpointing: bool = False
    """null_text only: a second forward pass instead of the memory of a backward pass."""
    steps: dict[str, int] = field(default_factory=dict)
    """Denoising steps."""
    guidance: dict[str, float] = field(default_factory=dict)
    """Classifier-free guidance by the text."""
    image_guidance: dict[str, float] = field(default_factory=dict)
    """Guidance by the source picture, of the instructed editors."""
    strength: dict[str, float] = field(default_factory=dict)
    """Part of the noise schedule that an edit goes through, in (0, 1]."""
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
    """Styles and filters of the whole picture."""
    characteristic: int = 0
    """What a person is or looks like."""
    facial: int = 0
    """Changes of the face alone."""


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
