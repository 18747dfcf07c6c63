"""Near-duplicate texts among many: alike as embeddings, and different in nothing that matters.

Similarity alone cannot tell "grey hair, sketch" and "white hair, sketch" apart from "gray hair,
sketch": the long common part decides it. So texts are compared part by part (a comma divides parts,
whose order is free), and similar parts are the same only if the content words that one has and the
other has not are none, or themselves nearly the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from modeling.concepts.text import content_words, split_parts, words

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
"""Texts → unit vectors [n, D]."""
Pairs = npt.NDArray[np.int64]
BLOCK = 2048
"""Rows and columns of a block of similarities: 16 MiB."""
TABLE = 1 << 16
"""Pairs whose words are compared at once."""
MOST_APART = 2
"""Words in which two parts that say the same may differ: "navy" and "navy blue"."""
Form = tuple[str, ...]
"""A part's content words, in order; its other words where there are none."""


class NearDuplicates:
    """`embed` makes the vectors of parts, and of the words in which two parts differ.

    similarity: least cosine of two duplicates. word_similarity: least cosine of the words in which
    they differ: "navy" and "navy blue" have 0.91 in MiniLM, "grey" and "white" 0.73.
    """

    def __init__(
        self, embed: Embed, similarity: float = 0.85, word_similarity: float = 0.9
    ) -> None:
        self.embed, self.similarity, self.word_similarity = embed, similarity, word_similarity
        self._embedded: dict[str, Vectors] = {}

    def repeats(self, texts: Sequence[str], vectors: Vectors, fixed: int = 0) -> Pairs:
        """For each text the index of an earlier one that it repeats, or -1: that one is kept.

        Only kept texts count as earlier ones. The first `fixed` are kept whatever they repeat.
        vectors: unit rows [n, D].
        """
        forms = [_forms(text) for text in texts]
        keys = self._keys(forms, texts, vectors)
        others: dict[int, list[int]] = defaultdict(list)
        for i, j in self._across(forms, vectors, forms, vectors):
            if j < i:
                others[i].append(j)
        out = np.full(len(texts), -1, dtype=np.int64)
        kept: dict[tuple[int, ...], int] = {}
        for i, key in enumerate(keys):
            earlier = [j for j in others[i] if out[j] < 0]
            earlier += [kept[key]] if key in kept else []
            if earlier and i >= fixed:
                out[i] = min(earlier)
            else:
                kept.setdefault(key, i)
        return out

    def matches(
        self, texts: Sequence[str], vectors: Vectors, others: Sequence[str], other_vectors: Vectors
    ) -> Pairs:
        """Pairs [P, 2] of a text and one of `others` that says the same, sorted."""
        if not len(texts) or not len(others):
            return np.zeros((0, 2), dtype=np.int64)
        left, right = [_forms(t) for t in texts], [_forms(t) for t in others]
        keys = self._keys(
            [*right, *left], [*others, *texts], np.concatenate([other_vectors, vectors])
        )
        by_key: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for j, key in enumerate(keys[: len(others)]):
            by_key[key].append(j)
        found = [(i, j) for i, key in enumerate(keys[len(others) :]) for j in by_key.get(key, ())]
        found += self._across(left, vectors, right, other_vectors)
        return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)

    def _keys(
        self, forms: list[list[Form]], texts: Sequence[str], vectors: Vectors
    ) -> list[tuple[int, ...]]:
        """What texts of the same parts, but for order and near-duplicates, have in common."""
        if not forms:
            return []
        # a part's vector is that of its form, so that it does not depend on who else is there
        names = list(dict.fromkeys(form for parts in forms for form in parts))
        plain = [" ".join(form).lstrip("\0 ") or "-" for form in names]
        vector_of = dict(zip(texts, vectors, strict=True))
        self._remember([text for text in plain if text not in vector_of])
        vector_of |= self._embedded
        table = np.stack([vector_of[text] for text in plain])
        partners: dict[int, list[int]] = defaultdict(list)
        words_of = _WordTable(names)
        for pairs in _similar(table, table, self.similarity, upper=True):
            for i, j in pairs[self._same_meaning(words_of, pairs)].tolist():
                partners[j].append(i)
        same: dict[Form, int] = {}  # part → the first part that says it
        for j, form in enumerate(names):
            same[form] = min((i for i in partners[j] if same[names[i]] == i), default=j)
        return [tuple(sorted(same[form] for form in parts)) for parts in forms]

    def _across(
        self, left: list[list[Form]], a: Vectors, right: list[list[Form]], b: Vectors
    ) -> list[tuple[int, int]]:
        """Pairs that say the same in another number of parts, as "red hair sketch" does."""
        out: list[tuple[int, int]] = []
        counts = [np.array([len(parts) for parts in forms]) for forms in (left, right)]
        for n in np.unique(counts[0]):
            rows, columns = np.flatnonzero(counts[0] == n), np.flatnonzero(counts[1] != n)
            if not len(columns):
                continue
            bags = [
                *(sum(left[i], ()) for i in rows),
                *(sum(right[j], ()) for j in columns),
            ]
            table = _WordTable(bags)
            for pairs in _similar(a[rows], b[columns], self.similarity, upper=False):
                same = self._same_meaning(table, pairs + np.array([0, len(rows)]))
                out += [(int(rows[i]), int(columns[j])) for i, j in pairs[same].tolist()]
        return out

    def _same_meaning(self, table: _WordTable, pairs: Pairs) -> npt.NDArray[np.bool_]:
        """Which pairs differ in nothing that matters."""
        out = np.zeros(len(pairs), dtype=bool)
        for start in range(0, len(pairs), TABLE):
            part = pairs[start : start + TABLE]
            possible, places, back = table.differences(part)
            apart = [table.words_apart(*part[place]) for place in places]
            self._remember([w for pair in apart if all(pair) for w in pair])
            verdicts = np.array([self._nearly_one(*pair) for pair in apart], dtype=bool)
            out[start + possible] = verdicts[back]
        return out

    def _nearly_one(self, a: str, b: str) -> bool:
        if not a or not b:
            return a == b
        return float(self._embedded[a] @ self._embedded[b]) >= self.word_similarity

    def _remember(self, texts: Sequence[str]) -> None:
        new = sorted(set(texts) - self._embedded.keys())
        if new:
            self._embedded.update(zip(new, self.embed(new), strict=True))


def _forms(text: str) -> list[Form]:
    """The form of each part, in order."""
    return [tuple(content_words(p)) or ("\0", *words(p)) for p in split_parts(text)]


class _WordTable:
    """Words of many texts as numbers, so that differences of pairs are array work."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self.lists = [list(dict.fromkeys(form)) for form in forms]
        names = {w: i for i, w in enumerate(dict.fromkeys(w for ws in self.lists for w in ws))}
        width = max((len(ws) for ws in self.lists), default=1)
        self.ids = np.full((len(self.lists), width), -1, dtype=np.int32)
        for i, ws in enumerate(self.lists):
            self.ids[i, : len(ws)] = [names[w] for w in ws]
        # a random number per word: a set of words is their sum
        self.codes = np.random.default_rng(0).integers(1, 2**62, len(names) + 1, dtype=np.int64)

    def differences(self, pairs: Pairs) -> tuple[Pairs, Pairs, Pairs]:
        """Of the pairs [P, 2]: places of those that may be one; a place of each kind; their kinds.

        Pairs are of one kind if the words that each text has and the other has not are the same.
        They may be one if those are none, or one to MOST_APART on either side.
        """
        a, b = self.ids[pairs[:, 0]], self.ids[pairs[:, 1]]
        equal = a[:, :, None] == b[:, None, :]
        only_a, only_b = ~equal.any(2) & (a >= 0), ~equal.any(1) & (b >= 0)
        n, m = only_a.sum(1), only_b.sum(1)
        possible = np.flatnonzero(((n > 0) == (m > 0)) & (np.maximum(n, m) <= MOST_APART))
        sums = [
            np.where(only[possible], self.codes[ids[possible]], 0).sum(1)
            for only, ids in ((only_a, a), (only_b, b))
        ]
        kinds = sums[0] * np.int64(0x9E3779B97F4A7C1) + sums[1]  # wraps around, as a hash may
        _, places, back = np.unique(kinds, return_index=True, return_inverse=True)
        return possible, possible[places], back

    def words_apart(self, i: int, j: int) -> tuple[str, str]:
        """The words of each text that the other has not, as phrases."""
        a, b = self.lists[i], self.lists[j]
        return " ".join(w for w in a if w not in b), " ".join(w for w in b if w not in a)


def _similar(a: Vectors, b: Vectors, least: float, *, upper: bool) -> Iterator[Pairs]:
    """Pairs (i, j) with a[i] · b[j] ≥ least, block by block; upper: only i < j."""
    left, right = (torch.from_numpy(np.ascontiguousarray(x)) for x in (a, b))
    for row in range(0, len(left), BLOCK):
        rows = left[row : row + BLOCK]
        for column in range(row if upper else 0, len(right), BLOCK):
            alike = rows @ right[column : column + BLOCK].T
            if alike.max() < least:
                continue
            pairs = (alike >= least).nonzero().numpy() + np.array([row, column])
            if upper:
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs
