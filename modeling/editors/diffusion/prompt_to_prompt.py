"""Prompt-to-prompt: an edit that keeps the source's attention maps (Hertz et al., ICLR 2023).

Words of the target prompt that the source has too attend where the source's do; new words attend
where they like ("refinement"). Where both prompts have equally many words, a changed word takes the
place of the one that it replaces ("word swap"). No re-weighting and no local blend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from itertools import chain, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeling.editors.diffusion.attention_maps import changed_attention


class Alignment(NamedTuple):
    """Which source token's map each target token takes.

    mapper: [77 source tokens, 77 target tokens]; share: [77 target tokens], 1 where a token takes
    the source's maps, 0 where it keeps its own.
    """

    mapper: Tensor
    share: Tensor


def align(source: str, target: str, tokenizer: Any) -> Alignment:
    """Align two prompts, token by token, begin, end and padding included.

    Refinement finds the common tokens by difflib, the published code by a global alignment; they
    differ only where words change places.
    """
    length = tokenizer.model_max_length
    before, after = _word_tokens(source, tokenizer), _word_tokens(target, tokenizer)
    pairs = _swapped(before, after) if len(before) == len(after) else _common(before, after)
    # begin and end hold a place each; longer prompts are cut as the text encoder's are
    ends = [min(sum(map(len, words)), length - 2) + 1 for words in (before, after)]
    mapper = torch.zeros(length, length)
    for s, t, weight in pairs:
        if s + 1 < ends[0] and t + 1 < ends[1]:
            mapper[s + 1, t + 1] = weight
    pads = range(max(ends) + 1, length)
    mapper[[0, ends[0], *pads], [0, ends[1], *pads]] = 1
    return Alignment(mapper, (mapper.sum(0) > 0).float())


Words = Sequence[Sequence[int]]
Pairs = Iterator[tuple[int, int, float]]
"""(source token, target token, weight)"""


def _word_tokens(text: str, tokenizer: Any) -> Words:
    return [tokenizer(word, add_special_tokens=False).input_ids for word in text.split()]


def _swapped(before: Words, after: Words) -> Pairs:
    """Word by word; between words of different lengths a token's attention is shared evenly."""
    s = t = 0
    for old, new in zip(before, after, strict=True):
        for i, j in product(range(len(old)), range(len(new))):
            if len(old) != len(new):
                yield s + i, t + j, 1 / len(new)
            elif i == j:
                yield s + i, t + j, 1.0
        s, t = s + len(old), t + len(new)


def _common(before: Words, after: Words) -> Pairs:
    old, new = (list(chain.from_iterable(words)) for words in (before, after))
    for s, t, size in SequenceMatcher(a=old, b=new, autojunk=False).get_matching_blocks():
        yield from ((s + i, t + i, 1.0) for i in range(size))


class PromptToPrompt:
    """Attention control of a batch [null source, null target, source, target] × n pictures.

    alignments: one a picture. cross, own: the share of steps in which the targets take the sources'
    cross-attention and self-attention; own_pixels: self-attention only of layers so small.
    Only the last quarter of a batch is changed.
    """

    def __init__(
        self,
        alignments: Sequence[Alignment],
        cross: float = 0.8,
        own: float = 0.4,
        own_pixels: int = 16 * 16,
    ) -> None:
        self._mapper = torch.stack([a.mapper for a in alignments])[:, None]
        self._share = torch.stack([a.share for a in alignments])[:, None, None]
        self._cross, self._own, self._own_pixels = cross, own, own_pixels

    @contextmanager
    def at(self, unet: Any, progress: float) -> Iterator[None]:
        """The UNet under control; progress: the share of steps that is done, in [0, 1)."""
        cross = self.cross if progress < self._cross else None
        own = self.own if progress < self._own else None
        with changed_attention(unet, cross, own, self._own_pixels):
            yield

    def cross(self, maps: Tensor) -> Tensor:
        """Cross-attention [4 n, heads, pixels, 77]: the targets' by the alignment."""
        rest, source, target = _quarters(maps)
        share = self._share.to(maps)
        return torch.cat([rest, source @ self._mapper.to(maps) * share + target * (1 - share)])

    def own(self, maps: Tensor) -> Tensor:
        """Self-attention [4 n, heads, pixels, pixels]: the targets' are the sources'."""
        rest, source, _ = _quarters(maps)
        return torch.cat([rest, source])


def _quarters(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All but the target's maps, the source's, the target's."""
    n = len(maps) // 4
    return maps[: 3 * n], maps[2 * n : 3 * n], maps[3 * n :]
