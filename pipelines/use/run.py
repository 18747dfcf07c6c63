"""A finished run in Python: `from pipelines import Run`. One process, CPU or GPU, without Ray.

    run = Run("runs/demo")
    adapter = run.predict("indigo hair")
    picture, = run.translate([picture], adapter)
    adapter.save("indigo")                        # a PEFT folder; run.load("indigo") reads it

It answers as the service does, by the same parts (pipelines/use/parts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, AdapterError, from_bytes
from modeling.text import TextEmbedding
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.base import load_base
from pipelines.stages.finetuning import FineTune
from pipelines.stages.prediction import Decoder
from pipelines.use.adapter_names import FINETUNED, Ask, ask_of, job_of, name_of
from pipelines.use.answers import Near
from pipelines.use.finetune_pairs import Pairs
from pipelines.use.finetuned import FineTuned, fine_tuned, held_out
from pipelines.use.parts import Loaded, TextPart, TranslatorPart, WeightPart, making, metadata_of
from pipelines.use.saved_run import saved_config
from pipelines.use.strength import checked, counted
from pipelines.use.wording import worded

Picture = NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@dataclass(frozen=True)
class Adapter:
    """LoRA weights of the run's base for one concept."""

    text: str
    """What it was predicted for."""
    name: str
    """As the service gives it out; "" for one that was fine-tuned here."""
    loaded: Loaded
    about: dict[str, str]
    """What its file says besides."""
    part: WeightPart
    outcome: FineTuned | None = None
    """Of its fine-tune, if it comes from one."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """By PEFT's keys, on the CPU."""
        return self.loaded.adapter

    def files(self) -> dict[str, bytes]:
        """PEFT's two files by name; equal adapters give equal bytes, here and from the service."""
        made = self.part.files(self.weights, self.name, self.about)
        return {WEIGHTS_FILE: made.weights, CONFIG_FILE: made.config}

    def renamed(self, name: str) -> Adapter:
        """The same under another name."""
        return replace(self, name=name)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `PeftModel.from_pretrained` loads, and `Run.load`."""
        out = RunDir(str(folder))
        out.write_files("", self.files(), last=CONFIG_FILE)
        return Path(folder)


class Run:
    """A finished run; its parts are loaded when they are first needed.

    Raises StageError if it is not finished, ArtifactError if a file is damaged.
    """

    def __init__(self, uri: str | Path, *, device: str = "") -> None:
        """uri: a run directory, of this machine or s3://…; device: "" = a GPU if there is one."""
        told = load_config([f"run_dir={uri}"])
        self._run = RunDir(told.run_dir)
        self.config = saved_config(self._run, told, "Run")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def uri(self) -> str:
        return self._run.uri

    @property
    def size(self) -> int:
        """Side in pixels of the pictures that it was trained on."""
        return self.config.images.size

    @cached_property
    def _text(self) -> TextPart:
        part = TextPart(self.config, self._run)
        self._weights.check_text(part.encoder.dim)
        return part

    @cached_property
    def _weights(self) -> WeightPart:
        return WeightPart(self.config, self._run, self.device)

    @cached_property
    def _translator(self) -> TranslatorPart:
        return TranslatorPart(self.config, self._run, self.device)

    @cached_property
    def _fine_tune(self) -> FineTune:
        device = torch.device(self.device)
        translator, discriminator = load_base(self.config, self._run)
        decoder = Decoder(self._run, self.config.adapt, device)
        return FineTune(
            self.config, self._run, translator.to(device), discriminator.to(device), decoder
        )

    def concepts(self) -> list[str]:
        """The texts of the concepts that it has learned from."""
        return [text for _, text in self._text.known]

    def nearest(self, text: str, count: int = 5) -> list[Near]:
        """Of these, the nearest by their texts, the nearest first."""
        (embedding,) = self._text.encode([worded(text)])
        return self._text.nearest(embedding, count)

    def predict(self, text: str, *, seed: int = 0) -> Adapter:
        """The adapter of a concept (paper Sec. 4.4: one step from noise).

        Equal texts and seeds give equal weights. WordingError if the text says nothing,
        AdapterError if the weights are not finite.
        """
        ask = Ask(worded(text), seed, self.config.adapt.t, self._weights.decoder.steps)
        (embedding,) = self._text.encode([ask.concept])
        (made,) = self._weights.predict([(ask, embedding)])
        if isinstance(made, AdapterError):
            raise made
        return self._predicted(ask, made)

    def _predicted(self, ask: Ask, loaded: Loaded) -> Adapter:
        about = {k: str(v) for k, v in vars(ask).items()}
        return Adapter(ask.concept, name_of(ask, loaded.model), loaded, about, self._weights)

    def load(self, where: str | Path) -> Adapter:
        """An adapter that was saved, by its folder, or one by the name that the service gave out.

        OtherModelError if it is of another base, AdapterError if it is damaged or of no run,
        UnknownAdapterError if the run has none of this name.
        """
        folder = Path(where)
        if isinstance(where, str) and not folder.exists():
            if where.startswith(FINETUNED):
                return self._stored(where)
            ask = ask_of(where, self._weights.digests["model"])
            return self.predict(ask.concept, seed=ask.seed)
        files = RunDir(str(folder))
        data = files.read(WEIGHTS_FILE)
        about = metadata_of(data)
        text = about.get("concept", "")
        if not text:
            raise AdapterError(f"{folder}: its file names no concept: not saved by this program")
        self._weights.check_base(about)
        adapter = from_bytes(data, folder)
        self._weights.translator.check(adapter)
        (embedding,) = self._text.encode([text])
        model = self._weights.digests["model"]
        loaded = Loaded(adapter, embedding.tokens, model, embedding.pooled)
        return Adapter(text, about.get("id", ""), loaded, making(about), self._weights)

    def _stored(self, name: str) -> Adapter:
        loaded = self._weights.read(job_of(name))
        about = dict(loaded.about)
        return Adapter(about.get("concept", ""), name, loaded, about, self._weights)

    def translate(
        self,
        pictures: Iterable[Picture],
        adapter: Adapter | Sequence[tuple[Adapter, float]],
        strength: float = 1.0,
    ) -> list[Picture]:
        """Edit pictures, uint8 [H, W, 3] of any sizes, which come back in their own.

        Each is edited with its short side as in training, and what changed is enlarged and added
        to it (modeling/targets/any_size.py). strength: how much of the change, from 0, which leaves
        a picture as it is, to 1.5. Several adapters with a strength each: their changes are added.
        StrengthError beyond.
        """
        mix = [(adapter, 1.0)] if isinstance(adapter, Adapter) else counted(adapter)
        merged = [
            self._translator.merge(one.loaded)._replace(strength=checked(part * strength))
            for one, part in mix
        ]
        asks = [(picture, merged) for picture in pictures]
        return self._translator.translate(asks) if asks else []

    def finetune(
        self,
        text: str,
        pairs: Pairs,
        *,
        steps: int | None = None,
        seed: int = 0,
        start: Adapter | None = None,
        test: int | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Adapter:
        """Train the prediction for `text`, or `start`, on example pairs by the run's recipe.

        pairs: source and edit, uint8 [S, S, 3] each. The last `test` are not trained on, and
        score it (`outcome`); by default a fifth of ten or more. steps: the run's own by default.
        FinetuneError if there are no pairs, or a loss is not finite.
        """
        begun = start or self.predict(text, seed=seed)
        pooled = begun.loaded.pooled
        if pooled is None:
            (embedding,) = self._text.encode([begun.text])
            pooled = embedding.pooled
        source, edited = (self._stacked([pair[i] for pair in pairs]) for i in (0, 1))
        adapt = self.config.adapt
        made = fine_tuned(
            self._fine_tune,
            begun.weights,
            TextEmbedding(begun.loaded.tokens, pooled),
            source,
            edited,
            held_out(len(pairs)) if test is None else test,
            adapt if steps is None else replace(adapt, steps=steps),
            seed,
            (lambda step, _: on_step(step)) if on_step else None,
        )
        about = {"concept": begun.text, "train_steps": str(len(made.losses))}
        loaded = begun.loaded._replace(adapter=made.adapter)
        return Adapter(begun.text, "", loaded, about, self._weights, made)

    def _stacked(self, pictures: Sequence[Picture]) -> Tensor:
        """uint8 [n, 3, S, S] on the run's device."""
        if not pictures:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        together = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return together.contiguous().to(self.device)
