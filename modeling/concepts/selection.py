"""Which of the texts that a language model writes are taken, and why the others are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modeling.concepts.near_duplicates import Embed, NearDuplicates
from modeling.concepts.text import content_words, meaningless, normal_form


@dataclass(frozen=True)
class Rejected:
    """A text, or a whole answer, that was not taken; request: the number of its request."""

    text: str
    category: str
    reason: str
    request: int


class Selection:
    """Remembers every text that was taken: a later one may not say the same.

    paraphrase_similarity: least cosine of a paraphrase to its concept.
    """

    def __init__(self, embed: Embed, near: NearDuplicates, paraphrase_similarity: float) -> None:
        self.near, self.paraphrase_similarity = near, paraphrase_similarity
        self.rejected: list[Rejected] = []
        self._embed = embed
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}
        self._forms: set[str] = set()

    def take(self, texts: Iterable[str], category: str, number: int, room: int) -> list[str]:
        """The new concepts among the texts, at most `room`."""
        taken: list[str] = []
        fresh: list[str] = []
        for raw in texts:
            text = " ".join(raw.split())
            reason = meaningless(text)
            form = normal_form(text)
            if not reason and form in self._forms:
                reason = "repeated"
            if reason:
                self.reject(text or raw, category, reason, number)
                continue
            self._forms.add(form)
            fresh.append(text)
        known = [t for t in self._vectors if t not in fresh]
        everything = [*known, *fresh]
        repeats = self.near.repeats(everything, self.vectors(everything), fixed=len(known))
        for text, first in zip(fresh, repeats[len(known) :].tolist(), strict=True):
            if first >= 0:
                self._drop(text, category, f"nearly repeats {everything[first]!r}", number)
            elif len(taken) == room:
                self._drop(text, category, "more than asked for", number)
            else:
                taken.append(text)
        return taken

    def faithful(
        self,
        said: list[tuple[str, str, int]],
        owner: Mapping[str, str],
        heldout: Sequence[str],
        categories: Mapping[str, str],
        missing: Mapping[str, int],
    ) -> list[tuple[str, str]]:
        """Those of (concept, paraphrase, request) that are taken, in order."""
        fresh: list[tuple[str, str, int]] = []
        for concept, text, number in said:
            text = " ".join(text.split())
            form = normal_form(text)
            reason = meaningless(text)
            if not reason and form in self._forms:
                reason = "repeated"
            if reason:
                self.reject(text, categories[concept], reason, number)
                continue
            self._forms.add(form)
            fresh.append((concept, text, number))
        texts = [text for _, text, _ in fresh]
        vectors, known = self.vectors(texts), list(owner)
        leaks = self.repeats_heldout(texts, vectors, heldout)
        others: dict[int, list[str]] = {}
        for i, j in self.near.matches(texts, vectors, known, self.vectors(known)).tolist():
            others.setdefault(i, []).append(known[j])
        among: dict[int, list[int]] = {}
        for i, j in self.near.matches(texts, vectors, texts, vectors).tolist():
            if j < i:
                among.setdefault(i, []).append(j)
        taken: dict[int, tuple[str, str]] = {}
        left = dict(missing)
        for i, (concept, text, number) in enumerate(fresh):
            foreign = [t for t in others.get(i, ()) if owner[t] != concept]
            foreign += [texts[j] for j in among.get(i, ()) if j in taken and taken[j][0] != concept]
            near = float(vectors[i] @ self.vectors([concept])[0])
            if i in leaks:
                reason = f"says held-out {leaks[i]!r}"
            elif foreign:
                reason = f"says another concept, as {foreign[0]!r} does"
            elif near < self.paraphrase_similarity:
                reason = f"strays from {concept!r}"
            elif left[concept] == 0:
                reason = "more than asked for"
            else:
                left[concept] -= 1
                taken[i] = (concept, text)
                continue
            self._drop(text, categories[concept], reason, number)
        return list(taken.values())

    def reasons(self) -> dict[str, int]:
        """How many were rejected for what, the most frequent first."""
        counts = Counter(re.split(r" ['\"]", r.reason)[0] for r in self.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def reject(self, text: str, category: str, reason: str, number: int = 0) -> None:
        """Note a text that is not taken; number: of the request that brought it, 0 for none."""
        self.rejected.append(Rejected(text, category, reason, number))

    def repeats_heldout(
        self, texts: Sequence[str], vectors: npt.NDArray[np.float32], heldout: Sequence[str]
    ) -> dict[int, str]:
        """Index of a text → the held-out text that it repeats or contains."""
        pairs = self.near.matches(texts, vectors, heldout, self.vectors(heldout))
        out = {i: heldout[j] for i, j in pairs.tolist()}
        inner = {f" {' '.join(content_words(h))} ": h for h in heldout}
        for i, text in enumerate(texts):
            said = f" {' '.join(content_words(text))} "
            for phrase, h in inner.items():
                if phrase in said:
                    out.setdefault(i, h)
        return out

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors [n, D] of texts, each embedded once."""
        new = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._embed(new), strict=True))
        return np.stack([self._vectors[t] for t in texts]) if len(texts) else np.zeros((0, 1), "f4")

    def _drop(self, text: str, category: str, reason: str, number: int) -> None:
        """Reject a text that was new: it may come again, and then count."""
        self.reject(text, category, reason, number)
        self._vectors.pop(text, None)
        if reason == "more than asked for":
            self._forms.discard(normal_form(text))
