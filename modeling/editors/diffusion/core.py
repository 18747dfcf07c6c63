"""What all diffusion editors share: options, loading, batching, seeds, and failing safely."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from modeling.concepts.concept import Concept
from modeling.editors.diffusion.distilling import merge_lora, scheduler_by
from modeling.editors.diffusion.instructions import check_templates, instruction
from modeling.editors.diffusion.loading import check_folder, check_weights
from modeling.editors.interface import EditError, EditResult, Source, change
from modeling.fitting import Fit, out_of_memory
from modeling.reasons import one_line

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNSET = -1.0
"""An option that is left to the method."""


@dataclass(frozen=True)
class EditorOptions:
    """How a diffusion editor is loaded and run. Fields that a method has no use for are ignored."""

    name: str = ""
    """The editor's, where it is not the method's own (recipes.py)."""
    model: str = ""
    """A folder written by save_pretrained, or a hub id; "" = the method's published weights."""
    extra: str = ""
    """A second model: the ControlNet."""
    lora: str = ""
    """LoRA weights that are merged into the model: a file, or a hub id with one, "OWNER/NAME:FILE",
    safetensors both."""
    scheduler: str = ""
    """A scheduler of diffusers and settings of it, such as "LCMScheduler" or
    "EulerDiscreteScheduler timestep_spacing=trailing"; "" = the model's own."""
    allow_download: bool = False
    """False: a hub id must be in the local cache already."""
    device: str = ""
    """A torch device; "" = a GPU where there is one."""
    dtype: str = "float32"
    """float32 | float16 | bfloat16"""
    attention: str = ""
    """diffusers' attention backend ("native", "flash", "xformers", …); "" = its default. A UNet
    has PyTorch's own ("native") alone."""
    compile: bool = False
    """torch.compile the denoiser: worth it for thousands of pictures of one size."""
    checkpointing: bool = False
    """null_text: a second forward pass instead of the memory that a backward pass takes."""
    inversions: int = 0
    """null_text: pictures whose inversion is kept in memory, 12 MB each at 50 steps; to edit one
    again costs a quarter of the evaluations and no gradient."""
    batch: int = 8
    """Pictures a call; halved, down to one, when memory runs out. 0 = what fits."""
    size: int = 0
    """Side in pixels at which the model edits (Stable Diffusion 1: 512); 0 = the picture's own."""
    steps: int = 0
    """Denoising steps; 0 = the method's default."""
    guidance: float = -1.0
    """Text guidance; -1 = the method's default."""
    image_guidance: float = -1.0
    """Image guidance, of the instructed editors; -1 = the method's default."""
    strength: float = -1.0
    """How far a picture is noised, of the img2img editors, in (0, 1]; -1 = the method's default."""
    seed: int = 0
    templates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Style → category → what the model is told, with {text}; else those of instructions.py."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise EditError(f"dtype {self.dtype!r}: use one of {', '.join(DTYPES)}")
        if self.batch < 0 or self.size < 0 or self.steps < 0:
            raise EditError(f"batch, size and steps start at 0: {self}")
        for key in ("guidance", "image_guidance"):
            value = getattr(self, key)
            if not (value == UNSET or 0 <= value < float("inf")):
                raise EditError(f"{key}={value}: is 0 or more; {UNSET:g} = the method's default")
        if not (self.strength == UNSET or 0 < self.strength <= 1):
            raise EditError(f"strength={self.strength}: is in (0, 1]")
        check_templates(self.templates)


class Evaluations(NamedTuple):
    """How often a picture goes through the denoiser, and back, for one edit."""

    forward: int
    backward: int = 0


def edit_seed(image_id: str, concept_id: str, seed: int) -> int:
    """The seed of one edit, so that its noise depends on neither batch nor order nor worker."""
    digest = hashlib.sha256(f"{seed}/{concept_id}/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class DiffusionEditor(ABC):
    """An Editor (modeling/editors/registry.py) around a diffusers pipeline, loaded once.

    A subclass names its method (`name`, `model`, `style`), loads in `load` and edits a batch in
    `run`. Raises EditError if the model cannot be loaded; the message says how to get it.
    """

    name: str
    model: ClassVar[str]
    """Hub id of the published weights."""
    steers: ClassVar[bool] = False
    """It samples by a scheduler of its own making."""
    style: str
    """What the model is told: "prompt" (describes the result), "instruction" (what to do) or
    "subject" (who is to be seen)."""

    def __init__(self, options: EditorOptions | None = None) -> None:
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        self.options = options or EditorOptions()
        device = self.options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = DTYPES[self.options.dtype]
        self.name = self.options.name or self.name
        self.pipeline: Any = self.load(self.options.model or self.model)
        if self.options.lora:
            merge_lora(self.pipeline, self.options.lora, self.name, self.options.allow_download)
        if self.options.scheduler:
            self._set_scheduler(self.options.scheduler)
        try:
            self.device = torch.device(device)
            self.pipeline.to(self.device)
        except RuntimeError as error:
            raise EditError(f"device {device!r} cannot be used: {one_line(error)}") from error
        self.pipeline.set_progress_bar_config(disable=True)
        self.fits: dict[int, Fit] = {}
        if self.options.size:
            self._check_side(self.options.size, self.options.size)
        if self.options.attention:
            self._set_attention(self.options.attention)
        if self.options.compile:
            # in place: the pipeline's components keep their types
            self.denoiser.compile()

    @abstractmethod
    def load(self, model: str) -> Any:
        """The diffusers pipeline, by `self.fetch`."""

    @abstractmethod
    def run(self, images: list[Image.Image], texts: list[str], seeds: list[int]) -> np.ndarray:
        """Edit a batch of RGB pictures of one size: float [n, H, W, 3] in [0, 1].

        A picture that the model could not make holds NaN.
        """

    @property
    def denoiser(self) -> Any:
        """The UNet, or the transformer of newer models."""
        for name in ("unet", "transformer"):
            if getattr(self.pipeline, name, None) is not None:
                return getattr(self.pipeline, name)
        kind = type(self.pipeline).__name__
        raise EditError(f"the editor {self.name!r} cannot use a {kind}: it has no single denoiser")

    @property
    def multiple(self) -> int:
        """What the sides of a picture are multiples of: pixels of a latent (FLUX: of a token)."""
        return int(self.pipeline.image_processor.config.vae_scale_factor)

    def supports(self, family: str) -> bool:
        """Every family: a diffusion model takes any text."""
        return True

    def text(self, concept: Concept) -> str:
        """What the model is told for this concept."""
        return instruction(self.style, concept, self.options.templates)

    def edit(self, sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        """Edit pictures of one size to one concept; a failed one gives its EditError.

        The noise of an edit depends on image, concept and seed alone.
        """
        if not sources:
            return []
        out: list[EditResult | EditError] = []
        none = EditError(f"{self.name}: out of memory with a single picture")
        fit = self.fit(self.options.size or max(sources[0].image.shape[:2]))
        for some, made in fit.pieces(sources, lambda some: self._batch(some, concept)):
            out += [none] * len(some) if made is None else made
        return out

    def fit(self, side: int) -> Fit:
        """How many pictures of that side, in pixels, fit."""
        if side not in self.fits:
            o = self.options
            what = f"edit {self.name}, {o.model or self.model}, {o.dtype}, {side} pixels"
            what += ", checkpointing" * o.checkpointing + ", compiled" * o.compile
            self.fits[side] = Fit(what, o.batch, self.device)
        return self.fits[side]

    def _batch(self, sources: list[Source], concept: Concept) -> list[EditResult | EditError]:
        """Raises where memory runs out."""
        try:
            made = self._run(sources, concept)
        except Exception as error:
            if out_of_memory(error):
                raise
            # one bad call must not lose the others; the reason is recorded
            known = isinstance(error, EditError)
            text = str(error) if known else f"{type(error).__name__}: {one_line(error)}"
            return [EditError(text)] * len(sources)
        return [self._result(s, image) for s, image in zip(sources, made, strict=True)]

    def _run(self, sources: list[Source], concept: Concept) -> np.ndarray:
        size = self.options.size
        images = [Image.fromarray(s.image) for s in sources]
        if size:
            images = [i.resize((size, size), Image.Resampling.LANCZOS) for i in images]
        self._check_side(*images[0].size)
        seeds = [edit_seed(s.image_id, concept.concept_id, self.options.seed) for s in sources]
        with torch.no_grad():  # null-text inversion switches gradients on where it needs them
            return self.run(images, [self.text(concept)] * len(images), seeds)

    def _result(self, source: Source, made: np.ndarray) -> EditResult | EditError:
        if not np.isfinite(made).all():
            overflow = self.dtype == torch.float16
            advice = " (editing.dtype=bfloat16 or float32 has room for more)" if overflow else ""
            return EditError(
                f"{self.name}: no picture: not finite{advice}, or stopped by the model's safety"
                " checker"
            )
        picture = Image.fromarray((made.clip(0, 1) * 255).round().astype(np.uint8))
        height, width = source.image.shape[:2]
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        image = np.asarray(picture)
        return EditResult(image, {"change": change(source.image, image)})

    def generators(self, seeds: list[int]) -> list[torch.Generator]:
        """One generator a picture, on the CPU: the same noise on every device."""
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def setting(self, key: str, default: float) -> float:
        """An option, or the method's default where the option is not set."""
        value: float = getattr(self.options, key)
        return default if value == (0 if key == "steps" else UNSET) else value

    def check_strength(self, strength: float, steps: int) -> None:
        """Raise EditError where so little noise takes no step at all."""
        strength = self.setting("strength", strength)
        steps = int(self.setting("steps", steps))
        if int(steps * strength) < 1:
            raise EditError(
                f"{self.name}: strength {strength:g} of {steps} steps is no step:"
                " give more of either (their product is 1 or more)"
            )

    def fetch(self, kind: Any, model: str, key: str = "models", **components: Any) -> Any:
        """`kind.from_pretrained` from a folder or the hub's cache, offline unless allowed.

        key: of the configuration's `editing`, where the user names the model.
        Raises EditError that says how to get the model. Pickles are never loaded.
        """
        try:
            check_folder(model)
            loaded = kind.from_pretrained(
                model,
                dtype=self.dtype,
                local_files_only=not self.options.allow_download,
                use_safetensors=True,
                **components,
            )
            check_weights(loaded)
            return loaded
        except Exception as error:  # damaged folders raise whatever their part's loader does
            raise EditError(
                f"the editor {self.name!r} cannot load {model!r} ({one_line(error)}). Give a folder"
                f" written by save_pretrained, with safetensors (editing.{key}.{self.name}=FOLDER),"
                " or allow the download (allow_download=true)"
            ) from error

    def _check_side(self, width: int, height: int) -> None:
        # diffusers would scale the picture to the next multiple below, without a word
        step = self.multiple
        if width % step or height % step:
            near = [max(step, round(side / step) * step) for side in (width, height)]
            raise EditError(
                f"{self.name}: {width}×{height} pixels: the sides must be multiples of {step};"
                f" edit at another side (editing.size={max(near)})"
            )

    def _set_scheduler(self, words: str) -> None:
        if self.steers:
            raise EditError(f"{self.name} samples by DDIM: leave editing.schedulers.{self.name}")
        try:
            self.pipeline.scheduler = scheduler_by(words, self.pipeline.scheduler.config)
        except (ValueError, TypeError) as error:
            raise EditError(f"editing.schedulers.{self.name}: {one_line(error)}") from error

    def _set_attention(self, backend: str) -> None:
        network = self.denoiser
        try:
            network.set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError) as error:
            raise EditError(f"attention={backend}: {one_line(error)}") from error
        # diffusers passes over those that have no backends, such as a UNet's
        choice = any(
            hasattr(getattr(m, "processor", None), "_attention_backend") for m in network.modules()
        )
        if not choice and backend != "native":
            raise EditError(
                f"attention={backend}: the {type(network).__name__} of {self.name!r} has no choice"
                " of backends, it always uses PyTorch's own: leave attention empty"
            )


def unflagged(output: Any) -> np.ndarray:
    """Pictures of a pipeline's output, NaN where its safety checker blackened one."""
    images = np.array(output.images, dtype=np.float32)
    for i, flagged in enumerate(getattr(output, "nsfw_content_detected", None) or []):
        if flagged:
            images[i] = np.nan
    return images
