"""How good an edit is, where there is no ground truth: direction, identity, quality, by CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeling.editors.choice import PARTS

NEUTRAL = "a photo of a person"
GOOD, BAD = "Good photo.", "Bad photo."
KEPT = 10_000
"""Source pictures whose features are kept: 3 KB each."""


class EditScoreError(RuntimeError):
    """A model that scores edits cannot be loaded; the message says how to get it."""


class EditScores:
    """Scores of edits by a CLIP model, in [-1, 1] or [0, 1], the higher the better.

    direction: cosine of the picture's change and the text's, both in CLIP's space (StyleGAN-NADA,
    Gal et al. 2022). identity: cosine of source and edit in the space of `identity`, a vision model
    of transformers such as DINOv2, or CLIP itself. quality: CLIP-IQA (Wang et al., AAAI 2023), the
    probability of "Good photo." against "Bad photo.".

    clip, identity: a folder or a hub id in the local cache. Raises EditScoreError.
    """

    def __init__(
        self, clip: str, identity: str = "", device: str = "", allow_download: bool = False
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.allow_download = allow_download
        self.clip = self._load(CLIPModel, "editing.clip", clip)
        self.tokenizer = self._load(AutoTokenizer, "editing.clip", clip)
        self.processor = self._load(AutoImageProcessor, "editing.clip", clip)
        self.identity: Any = None
        if identity:
            self.identity = self._load(AutoModel, "editing.identity", identity)
            self.identity_processor = self._load(AutoImageProcessor, "editing.identity", identity)
        self.sources: dict[tuple[str, bytes], Tensor] = {}
        self.neutral, *judged = self._texts([NEUTRAL, GOOD, BAD])
        self.judged = torch.stack(judged)

    def _load(self, kind: Any, key: str, name: str) -> Any:
        try:
            part = kind.from_pretrained(name, local_files_only=not self.allow_download)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EditScoreError(
                f"{key}={name}: cannot be loaded ({reason}). Give a folder written by"
                " save_pretrained, or allow_download=true"
            ) from error
        return part.eval().to(self.device) if isinstance(part, torch.nn.Module) else part

    @torch.no_grad()
    def __call__(
        self, sources: Sequence[np.ndarray], edits: Sequence[np.ndarray], text: str
    ) -> list[dict[str, float]]:
        """PARTS of each edit: uint8 [H, W, 3] pictures, and what the edit is to show."""
        before, after = self._known(sources, "clip", self._images), self._images(edits)
        (target,) = self._texts([text])
        direction = torch.cosine_similarity(after - before, target - self.neutral, dim=-1)
        if self.identity is None:
            identity = torch.cosine_similarity(before, after, dim=-1)
        else:
            own = self._known(sources, "identity", self._faces)
            identity = torch.cosine_similarity(own, self._faces(edits), dim=-1)
        # CLIP's own temperature
        logits = self.clip.logit_scale.exp() * after @ self.judged.T
        quality = logits.softmax(-1)[:, 0]
        parts = torch.stack([direction, identity, quality], dim=-1).cpu().tolist()
        return [dict(zip(PARTS, row, strict=True)) for row in parts]

    def _known(
        self,
        pictures: Sequence[np.ndarray],
        model: str,
        features: Callable[[Sequence[np.ndarray]], Tensor],
    ) -> Tensor:
        """Features of source pictures, which come again with every concept."""
        keys = [(model, hashlib.blake2b(p.tobytes()).digest()) for p in pictures]
        new = {k: p for k, p in zip(keys, pictures, strict=True) if k not in self.sources}
        # a row of its own: of a model's hidden states a view would keep all of them
        made = [row.clone() for row in features(list(new.values()))] if new else []
        found = dict(zip(new, made, strict=True))
        rows = torch.stack([found[k] if k in found else self.sources[k] for k in keys])
        if len(self.sources) + len(found) <= KEPT:
            self.sources |= found
        return rows

    def _images(self, pictures: Sequence[np.ndarray]) -> Tensor:
        inputs = self.processor([Image.fromarray(p) for p in pictures], return_tensors="pt")
        out = self.clip.get_image_features(inputs["pixel_values"].to(self.device))
        return torch.nn.functional.normalize(out.pooler_output.float(), dim=-1)

    def _faces(self, pictures: Sequence[np.ndarray]) -> Tensor:
        images = [Image.fromarray(p) for p in pictures]
        inputs = self.identity_processor(images, return_tensors="pt")
        out = self.identity(pixel_values=inputs["pixel_values"].to(self.device))
        # the class token, which DINO's users compare; a convolutional model has a pooled map
        hidden = out.last_hidden_state
        return hidden[:, 0].float() if hidden.dim() == 3 else hidden.flatten(2).mean(2).float()

    @torch.no_grad()
    def _texts(self, texts: list[str]) -> Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        out = self.clip.get_text_features(**inputs.to(self.device))
        return torch.nn.functional.normalize(out.pooler_output.float(), dim=-1)
