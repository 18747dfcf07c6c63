"""A text encoder without a network: every word has a direction of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from modeling.concepts.text import words


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [n, 512]: the sum of the words' random directions, nearly orthogonal."""
    out = np.zeros((len(texts), 512), dtype=np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in words(text) or [text]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            row += np.random.default_rng(seed).standard_normal(512)
    return out / np.linalg.norm(out, axis=1, keepdims=True)
