"""What the service's deployments hold: text encoder, weight generator, translator.

No HTTP and no Ray in here (pipelines/serve/deployments.py puts them on Ray). Each takes a batch of
requests and answers every one by itself: what fails for one is returned as its exception.
Building one raises ArtifactError, TextEncoderError or AdapterError if the run cannot be served.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from modeling.targets.adapter_training import pad_tokens, to_uint8, to_unit
from modeling.targets.any_size import at_own_size
from modeling.targets.lora import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    AdapterError,
    from_bytes,
    to_files,
)
from modeling.text import TextEmbedding, TextEncoder
from pipelines.config.schema import Config
from pipelines.config.sections.operation import Replicas
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts, load_text, with_adapter
from pipelines.stages.prediction import Decoder
from pipelines.stages.weight_generators import load_generator
from pipelines.use.adapter_names import (
    OTHER_MODEL,
    Ask,
    OtherModelError,
    UnknownAdapterError,
)
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_jobs import JOBS, TOKENS_FILE
from pipelines.use.saved_run import digests


class Loaded(NamedTuple):
    """An adapter and the prompt tokens [L, D] of its concept, on the CPU; which model made it."""

    adapter: Adapter
    tokens: Tensor
    model: str
    pooled: Tensor | None = None
    """The pooled prompt [D] of an adapter that was predicted."""
    about: Mapping[str, str] = MappingProxyType({})
    """What the file of a fine-tuned adapter says of its making."""


class Merged(NamedTuple):
    """A translator's state with an adapter merged in, and the prompt tokens [L, D]."""

    state: Adapter
    tokens: Tensor
    strength: float = 1.0
    """Of the change: 0 leaves a picture as it is."""


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; {} if it has none or is damaged."""
    try:
        end = 8 + int.from_bytes(data[:8], "little")
        return dict(json.loads(data[8:end]).get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError):
        return {}


def making(about: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata says of its making; `WeightPart.files` adds the rest."""
    ours = ("id", "base", "layout", "generator", "format")
    return {k: v for k, v in about.items() if k not in ours}


def _device(replicas: Replicas, device: str) -> torch.device:
    return torch.device(device or ("cuda" if replicas.gpus else "cpu"))


class TextPart:
    """The text encoder, and the texts of the concepts that adapters were collected for."""

    def __init__(self, config: Config, run: RunDir, encoder: TextEncoder | None = None) -> None:
        """encoder: the configuration's, if it has been loaded."""
        self.encoder = encoder or TextEncoder(config.text_encoder, config.allow_download)
        texts = load_text(run)
        known = [c for c in with_adapter(load_concepts(run)) if c.split == "train"]
        self.known = [Known(c.concept_id, c.text) for c in known]
        pooled = texts.pooled([c.concept_id for c in known])
        self.pooled = torch.nn.functional.normalize(pooled, dim=-1)

    def encode(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return self.encoder.encode(texts)

    def containing(self, words: str, count: int) -> list[Known]:
        """Training concepts in whose text this is, in any case; first those that begin with it."""
        wanted = words.strip().casefold()
        found = [k for k in self.known if wanted in k.text.casefold()]
        found.sort(key=lambda k: (not k.text.casefold().startswith(wanted), k.text))
        return found[:count]

    def nearest(self, embedding: TextEmbedding, count: int) -> list[Near]:
        """The nearest training concepts, the nearest first."""
        near = self.pooled @ torch.nn.functional.normalize(embedding.pooled, dim=-1)
        values, places = near.topk(min(count, len(self.known)))
        found = zip(places.tolist(), values.tolist(), strict=True)
        return [Near(self.known[i][0], self.known[i][1], cosine) for i, cosine in found]


class WeightPart:
    """The weight generator; its adapters are those of the run's base."""

    def __init__(self, config: Config, run: RunDir, device: str = "") -> None:
        self.config, self.run = config, run
        self.device = _device(config.serve.weights, device)
        # only described: adapters are checked against it and written with its PEFT config
        self.translator = load_base(config, run)[0]
        self.lora_config = self.translator.lora_config  # now: importing PEFT takes seconds
        self.decoder = Decoder(run, config.adapt, self.device)
        self.generator = load_generator(run).model.to(self.device)
        self.digests = digests(run)

    def about(self) -> dict[str, Any]:
        """What is being served."""
        return {
            **self.digests,
            "layout": self.decoder.layout.digest(),
            "image_size": self.config.images.size,
            "device": str(self.device),
        }

    def check_text(self, dim: int) -> None:
        """ArtifactError if the text encoder's tokens have another width than are taken here."""
        if dim != self.generator.config.text_dim:
            raise ArtifactError(
                f"text_encoder={self.config.text_encoder} gives {dim} numbers a token, the weight"
                f" generator in {self.run.uri} takes {self.generator.config.text_dim}"
            )

    def predict(self, asks: Sequence[tuple[Ask, TextEmbedding]]) -> list[Loaded | AdapterError]:
        """One adapter for each; all blocks of all with one t and one sampler go together.

        AdapterError where a prediction is not finite.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (ask, _) in enumerate(asks):
            groups[ask.t, ask.steps].append(i)
        out: dict[int, Loaded | AdapterError] = {}
        for (t, steps), places in groups.items():
            embeddings = [asks[i][1] for i in places]
            seeds = [asks[i][0].seed for i in places]
            adapters = self.decoder.adapters(self.generator, embeddings, seeds, t, steps)
            for i, adapter, embedding in zip(places, adapters, embeddings, strict=True):
                # clones: a view would keep the whole batch
                own = {k: v.cpu().clone() for k, v in adapter.items()}
                try:
                    self.translator.check(own)
                    model = self.digests["model"]
                    out[i] = Loaded(own, embedding.tokens, model, embedding.pooled)
                except AdapterError as error:
                    out[i] = error
        return [out[i] for i in range(len(asks))]

    def read(self, job: str) -> Loaded:
        """A fine-tuned adapter.

        UnknownAdapterError; OtherModelError if it was trained on another base; ArtifactError or
        AdapterError if its file is damaged.
        """
        path, extra = (f"{JOBS}/{job}/{name}" for name in (WEIGHTS_FILE, TOKENS_FILE))
        if not self.run.exists(path):
            raise UnknownAdapterError("no adapter has this name")
        data = self.run.read(path)
        about = metadata_of(data)
        self.check_base(about)
        adapter = from_bytes(data, self.run.url(path))
        self.translator.check(adapter)
        tokens = from_bytes(self.run.read(extra), self.run.url(extra))["tokens"]
        return Loaded(adapter, tokens, self.digests["model"], about=making(about))

    def check_base(self, about: Mapping[str, str]) -> None:
        """OtherModelError if the metadata of an adapter's file names another base."""
        if about.get("base") != self.digests["base"]:
            raise OtherModelError(OTHER_MODEL)

    def files(self, adapter: Adapter, name: str, about: Mapping[str, str]) -> AdapterFiles:
        """PEFT's two files; equal adapters give equal bytes. about: goes into the metadata."""
        layout, base = self.decoder.layout.digest(), self.digests["base"]
        metadata = {**about, "id": name, "layout": layout, "base": base}
        metadata["generator"] = self.digests["generator"]
        files = to_files(adapter, self.lora_config, metadata)
        return AdapterFiles(files[WEIGHTS_FILE], files[CONFIG_FILE], layout, base, name)


class TranslatorPart:
    """The base, through which pictures go with adapters merged in."""

    def __init__(self, config: Config, run: RunDir, device: str = "") -> None:
        self.device = _device(config.serve.translator, device)
        self.translator = load_base(config, run)[0].to(self.device)
        self.model = digests(run)["model"]
        self.size = config.images.size

    def merge(self, loaded: Loaded) -> Merged:
        """OtherModelError if another model made it, as during a rolling update."""
        if loaded.model != self.model:
            raise OtherModelError(OTHER_MODEL)
        adapter = {k: v.to(self.device) for k, v in loaded.adapter.items()}
        self.translator.check(adapter)
        with torch.no_grad():
            return Merged(self.translator.merge(adapter), loaded.tokens.to(self.device))

    @torch.no_grad()
    def translate(self, asks: Sequence[tuple[np.ndarray, Sequence[Merged]]]) -> list[np.ndarray]:
        """Edit uint8 [H, W, 3] each, of any sizes (modeling/targets/any_size.py).

        By one adapter, or by several, whose changes are added (pipelines/use/strength.py). Pictures
        of one size go together: on an accelerator through one set of grouped operations. A CPU's
        are slower than one adapter after another (modeling/targets/lora.py), so there the pictures
        of one adapter go together.
        """
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (picture, _) in enumerate(asks):
            groups[picture.shape].append(i)
        out: dict[int, np.ndarray] = {}
        for places in groups.values():
            pictures = np.stack([asks[i][0] for i in places])
            source = to_unit(torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device))
            made = self._mixed(source, [asks[i][1] for i in places])
            edited = to_uint8(made).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            out |= dict(zip(places, edited, strict=True))
        return [out[i] for i in range(len(asks))]

    def _mixed(self, source: Tensor, mixes: Sequence[Sequence[Merged]]) -> Tensor:
        """Each picture of [n, 3, H, W] with the changes that its adapters make, times strengths."""
        rows = [row for row, mix in enumerate(mixes) for _ in mix]
        merged = [one for mix in mixes for one in mix]
        each = source[rows]
        edit = partial(self._edited, merged=merged)
        made = at_own_size(edit, each, self.size, self.translator.multiple)
        if len(rows) == len(mixes) and all(one.strength == 1 for one in merged):
            return made
        strength = torch.tensor([one.strength for one in merged], device=self.device)
        change = strength[:, None, None, None] * (made - each)
        index = torch.tensor(rows, device=self.device)
        return source.index_add(0, index, change)

    def _edited(self, source: Tensor, merged: Sequence[Merged]) -> Tensor:
        if self.device.type == "cuda":
            return self._at_once(source, merged)
        return self._one_by_one(source, merged)

    def _at_once(self, source: Tensor, merged: Sequence[Merged]) -> Tensor:
        tokens, mask = pad_tokens([m.tokens for m in merged])
        state = {k: torch.stack([m.state[k] for m in merged]) for k in merged[0].state}
        mask = mask.to(self.device)
        return vmap(self.translator.apply)(state, source[:, None], tokens, mask)[:, 0]

    def _one_by_one(self, source: Tensor, merged: Sequence[Merged]) -> Tensor:
        places: dict[int, list[int]] = defaultdict(list)
        for i, m in enumerate(merged):
            places[id(m.state)].append(i)
        out = torch.empty_like(source)
        for same in places.values():
            state, tokens, _ = merged[same[0]]
            mask = torch.ones(len(tokens), dtype=torch.bool, device=self.device)
            x = source[same].contiguous(memory_format=torch.channels_last)
            out[same] = self.translator.apply(state, x, tokens, mask)
        return out
