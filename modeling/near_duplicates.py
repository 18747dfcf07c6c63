"""Near-duplicate texts among many: alike as embeddings, and different in nothing that matters.

Similarity alone cannot tell "grey hair, sketch" and "white hair, sketch" apart from "gray hair,
sketch": the long common part decides it. A pair of similar texts is therefore a duplicate only if
the content words that one has and the other has not are none, or themselves nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from modeling.concept_text import content_form, content_words

Embed = Callable[[list[str]], npt.NDArray[np.float32]]
"""Texts → unit vectors [n, D]."""
Pairs = npt.NDArray[np.int64]
BLOCK = 2048
"""Rows and columns of a block of similarities: 16 MiB, which a core's cache nearly holds."""
TABLE = 1 << 16
"""Pairs whose words are compared at once."""


class NearDuplicates:
    """`embed` makes the vectors of texts and of the words in which two texts differ.

    similarity: least cosine of two duplicates. word_similarity: least cosine of the words in which
    they differ: "grey" and "gray" have 0.97 in MiniLM, "grey" and "white" 0.73.
    """

    def __init__(
        self, embed: Embed, similarity: float = 0.85, word_similarity: float = 0.9
    ) -> None:
        self.embed, self.similarity, self.word_similarity = embed, similarity, word_similarity
        self._phrases: dict[str, npt.NDArray[np.float32]] = {}

    def repeats(
        self, texts: Sequence[str], vectors: npt.NDArray[np.float32], fixed: int = 0
    ) -> Pairs:
        """For each text the index of an earlier one that it repeats, or -1: that one is kept.

        Only kept texts count as earlier ones, so a chain a ~ b ~ c loses b alone unless c ~ a. The
        first `fixed` texts are kept, whatever they repeat. vectors: unit rows [n, D].
        """
        forms: dict[str, int] = {}
        same = [forms.setdefault(content_form(t) or f"\0{i}", i) for i, t in enumerate(texts)]
        # texts with one content form are one text to the embeddings: the first stands for all
        firsts = np.array(sorted(set(same)), dtype=np.int64)
        pairs = firsts[self._pairs([texts[i] for i in firsts], vectors[firsts])]
        partners: dict[int, list[int]] = {}
        for a, b in pairs.tolist():
            partners.setdefault(b, []).append(a)
        out = np.full(len(texts), -1, dtype=np.int64)
        kept_of: dict[int, int] = {}  # content form's first → the kept text that says it
        for i, first in enumerate(same):
            earlier = [kept_of[first]] if first in kept_of else []
            earlier += [kept_of[p] for p in partners.get(first, ()) if p in kept_of]
            if i < fixed or not earlier:
                kept_of.setdefault(first, i)
            else:
                out[i] = min(earlier)
        return out

    def matches(
        self,
        texts: Sequence[str],
        vectors: npt.NDArray[np.float32],
        others: Sequence[str],
        other_vectors: npt.NDArray[np.float32],
    ) -> Pairs:
        """Pairs [P, 2] of a text and one of `others` that it repeats, sorted."""
        forms: dict[str, list[int]] = {}
        for j, text in enumerate(others):
            forms.setdefault(content_form(text), []).append(j)
        same = [(i, j) for i, t in enumerate(texts) for j in forms.get(content_form(t) or "\0", ())]
        table = _WordTable([*texts, *others])
        found = [np.array(same, dtype=np.int64).reshape(-1, 2)]
        for pairs in _similar(vectors, other_vectors, self.similarity, upper=False):
            shifted = pairs + np.array([0, len(texts)])
            found.append(pairs[self._same_meaning(table, shifted)])
        return np.unique(np.concatenate(found), axis=0)

    def _pairs(self, texts: list[str], vectors: npt.NDArray[np.float32]) -> Pairs:
        """All duplicate pairs (earlier, later)."""
        table = _WordTable(texts)
        found = [np.zeros((0, 2), dtype=np.int64)]
        for pairs in _similar(vectors, vectors, self.similarity, upper=True):
            found.append(pairs[self._same_meaning(table, pairs)])
        return np.concatenate(found)

    def _same_meaning(self, table: _WordTable, pairs: Pairs) -> npt.NDArray[np.bool_]:
        """Which pairs differ in nothing that matters."""
        out = np.zeros(len(pairs), dtype=bool)
        for start in range(0, len(pairs), TABLE):
            part = pairs[start : start + TABLE]
            places, back = table.differences(part)
            verdicts = np.zeros(len(places), dtype=bool)
            waiting = []
            for k, place in enumerate(places):
                a, b = table.words_apart(*part[place])
                if not a and not b:
                    verdicts[k] = True
                elif a and b:
                    waiting.append((k, a, b))
            missing = {w for _, a, b in waiting for w in (a, b)} - self._phrases.keys()
            if missing:
                ordered = sorted(missing)
                self._phrases.update(zip(ordered, self.embed(ordered), strict=True))
            for k, a, b in waiting:
                verdicts[k] = self._phrases[a] @ self._phrases[b] >= self.word_similarity
            out[start : start + TABLE] = verdicts[back]
        return out


class _WordTable:
    """Content words of many texts as numbers, so that differences of pairs are array work."""

    def __init__(self, texts: Sequence[str]) -> None:
        lists = [list(dict.fromkeys(content_words(t))) for t in texts]
        names = {w: i for i, w in enumerate(dict.fromkeys(w for ws in lists for w in ws))}
        self.lists = lists
        width = max((len(ws) for ws in lists), default=0) or 1
        self.ids = np.full((len(lists), width), -1, dtype=np.int32)
        for i, ws in enumerate(lists):
            self.ids[i, : len(ws)] = [names[w] for w in ws]
        # a random 63-bit number per word: a set of words is their sum
        self.codes = np.random.default_rng(0).integers(1, 2**62, len(names) + 1, dtype=np.int64)
        self.codes[-1] = 0  # of the padding, -1

    def differences(self, pairs: Pairs) -> tuple[Pairs, Pairs]:
        """One place of each kind of difference among the pairs [P, 2], and each pair's kind [P].

        Pairs are of one kind if the words that each text has and the other has not are the same.
        """
        a, b = self.ids[pairs[:, 0]], self.ids[pairs[:, 1]]
        equal = a[:, :, None] == b[:, None, :]
        only_a = np.where(equal.any(2), 0, self.codes[a]).sum(1)
        only_b = np.where(equal.any(1), 0, self.codes[b]).sum(1)
        kinds = only_a * np.int64(0x9E3779B97F4A7C1) + only_b  # wraps around, as a hash may
        _, places, back = np.unique(kinds, return_index=True, return_inverse=True)
        return places, back

    def words_apart(self, i: int, j: int) -> tuple[str, str]:
        """The words of each text that the other has not, as phrases."""
        a, b = self.lists[i], self.lists[j]
        return " ".join(w for w in a if w not in b), " ".join(w for w in b if w not in a)


def _similar(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], least: float, *, upper: bool
) -> Iterator[Pairs]:
    """Pairs (i, j) with a[i] · b[j] ≥ least, block by block; upper: only i < j."""
    left, right = (torch.from_numpy(np.ascontiguousarray(x)) for x in (a, b))
    out = torch.empty(0)
    for row in range(0, len(left), BLOCK):
        rows = left[row : row + BLOCK]
        for column in range(row if upper else 0, len(right), BLOCK):
            columns = right[column : column + BLOCK]
            out = out.resize_(len(rows), len(columns))
            torch.mm(rows, columns.T, out=out)
            if out.max() < least:
                continue
            found = (out >= least).nonzero().numpy()
            pairs = found + np.array([row, column])
            if upper:
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs
