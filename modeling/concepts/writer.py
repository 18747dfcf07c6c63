"""The paper's concept dataset from a language model's answers (Sec. 3.1, 5.1).

Written in rounds until the counts are there; held-out sets drawn; training concepts paraphrased and
combined. Given the same answers, the same concepts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modeling.concepts.concept import Concept, ConceptError, concept_id
from modeling.concepts.grammar.family import CATEGORIES
from modeling.concepts.language_models import Answer, Prompt
from modeling.concepts.near_duplicates import Embed, NearDuplicates
from modeling.concepts.prompts import (
    PARAPHRASE_SCHEMA,
    WRITE_SCHEMA,
    AnswerError,
    paraphrase_messages,
    read_concepts,
    read_paraphrases,
    write_messages,
)
from modeling.concepts.recipe import WritingSpec
from modeling.concepts.selection import Selection
from modeling.concepts.shuffle import shuffled
from modeling.concepts.text import has_phrase, normal_form

Ask = Callable[[list[Prompt]], list[Answer]]
"""Prompts → an answer to each, in order."""
SPARE = 1.25
"""So much more is asked for than is missing: some of it will be filtered."""


@dataclass(frozen=True)
class _Request:
    category: str
    prompt: Prompt
    concepts: tuple[str, ...] = ()  # to be paraphrased


class ConceptWriter:
    """Takes the steps one after the other; `selection.rejected` and `shortfalls` tell of them."""

    def __init__(
        self,
        spec: WritingSpec,
        seed: int,
        embed: Embed,
        near: NearDuplicates,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.spec, self.seed, self.log = spec, seed, log
        self.selection = Selection(embed, near, spec.paraphrase_similarity)
        self.asked = 0
        self.shortfalls: list[str] = []

    def write(self, ask: Ask) -> dict[str, list[str]]:
        """Texts by category, as many as spec.counts; ConceptError if the budget does not do."""
        out: dict[str, list[str]] = {c: [] for c in CATEGORIES}
        counts, left = self.spec.counts, self.spec.requests
        for round_ in itertools.count():
            requests = self._writing_requests(out, round_)[:left]
            if not requests:
                break
            left -= len(requests)
            for number, request, answer in self._answers(ask, requests):
                try:
                    texts = read_concepts(_usable(answer))
                except AnswerError as error:
                    self.selection.reject(answer.text, request.category, str(error), number)
                    continue
                room = counts[request.category] - len(out[request.category])
                out[request.category] += self.selection.take(texts, request.category, number, room)
            have = ", ".join(f"{len(out[c])}/{n} {c}" for c, n in counts.items() if n)
            self.log(f"concepts: round {round_ + 1}, {len(requests)} requests: {have}")
        for category, wanted in counts.items():
            self._check(len(out[category]), wanted, category, "counts")
        return out

    def hold_out(self, texts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
        """Split → category → texts; test and validation drawn by the seed.

        A text whose words another one contains is never held out: "sketch" would be seen in
        "pencil sketch". Raises ConceptError if too few are left.
        """
        everything = [t for c in CATEGORIES for t in texts[c]]
        out: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
        for category in CATEGORIES:
            wanted = {s: getattr(self.spec, s).get(category, 0) for s in ("test", "val")}
            drawn: list[str] = []
            for text in shuffled(texts[category], f"{self.seed}/held out"):
                if len(drawn) == sum(wanted.values()):
                    break
                if not any(has_phrase(o, text) for o in everything if o != text):
                    drawn.append(text)
            if len(drawn) < sum(wanted.values()):
                raise ConceptError(
                    f"llm.test and llm.val: {sum(wanted.values())} {category} concepts wanted, but"
                    f" only {len(drawn)} of {len(texts[category])} are contained in no other: ask"
                    f" for more by llm.counts.{category}"
                )
            chosen = {"test": drawn[: wanted["test"]], "val": drawn[wanted["test"] :]}
            for split, these in chosen.items():
                out[split][category] = [t for t in texts[category] if t in these]
            out["train"][category] = [t for t in texts[category] if t not in drawn]
        return out

    def paraphrase(
        self, ask: Ask, train: Mapping[str, Sequence[str]], heldout: Sequence[str]
    ) -> list[tuple[str, str]]:
        """(concept, paraphrase) for training concepts, as many as spec.paraphrases, spread evenly.

        A paraphrase differs from every text in more than spelling, is near its concept, and says
        neither another training concept nor a held-out one, nor contains one.
        """
        categories = {t: c for c in CATEGORIES for t in train[c]}
        missing: dict[str, int] = {}
        for category in CATEGORIES:
            total, texts = self.spec.paraphrases.get(category, 0), train[category]
            if total and not texts:
                raise ConceptError(f"llm.paraphrases.{category}: no concept is left to paraphrase")
            for rank, text in enumerate(shuffled(texts, f"{self.seed}/paraphrases")):
                missing[text] = total // len(texts) + (rank < total % len(texts))
        owner = {text: text for text in categories}  # accepted text → the concept it says
        out: list[tuple[str, str]] = []
        left = self.spec.requests
        for round_ in itertools.count():
            requests = self._paraphrase_requests(train, missing, round_)[:left]
            if not requests:
                break
            left -= len(requests)
            said: list[tuple[str, str, int]] = []  # concept, paraphrase, number of the request
            for number, request, answer in self._answers(ask, requests):
                try:
                    pairs = read_paraphrases(_usable(answer))
                except AnswerError as error:
                    self.selection.reject(answer.text, request.category, str(error), number)
                    continue
                forms = {normal_form(t): t for t in request.concepts}
                for concept, text in pairs:
                    if normal_form(concept) in forms:
                        said.append((forms[normal_form(concept)], text.strip(), number))
                    else:
                        reason = "of a concept that was not asked for"
                        self.selection.reject(text, request.category, reason, number)
            for concept, text in self.selection.faithful(said, owner, heldout, categories, missing):
                missing[concept] -= 1
                owner[text] = concept
                out.append((concept, text))
            self.log(
                f"concepts: paraphrases, round {round_ + 1}, {len(requests)} requests:"
                f" {len(out)}/{sum(self.spec.paraphrases.values())}"
            )
        for category in CATEGORIES:
            total = self.spec.paraphrases.get(category, 0)
            found = sum(categories[concept] == category for concept, _ in out)
            self._check(found, total, f"{category} paraphrases", "paraphrases")
        order = {text: i for i, text in enumerate(categories)}
        return sorted(out, key=lambda pair: order[pair[0]])

    def combinations(self, train: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
        """All combinations of training texts across categories, in an order drawn by the seed."""
        every: list[tuple[str, ...]] = []
        for names in self.spec.combine:
            every += itertools.product(*(train[category] for category in names))
        return iter(shuffled(every, f"{self.seed}/combinations"))

    def _answers(
        self, ask: Ask, requests: list[_Request]
    ) -> Iterator[tuple[int, _Request, Answer]]:
        answers = ask([r.prompt for r in requests])
        for request, answer in zip(requests, answers, strict=True):
            self.asked += 1
            yield self.asked, request, answer

    def _writing_requests(self, have: Mapping[str, list[str]], round_: int) -> list[_Request]:
        spec, by_category = self.spec, []
        for category, wanted in spec.counts.items():
            missing = wanted - len(have[category])
            number = min(math.ceil(missing * SPARE / spec.per_request), spec.round_requests)
            by_category.append(
                [
                    _Request(
                        category,
                        Prompt(
                            write_messages(
                                category, spec.per_request, have[category], round_, i, self.seed
                            ),
                            WRITE_SCHEMA,
                        ),
                    )
                    for i in range(max(0, number))
                ]
            )
        # in turn, so that the end of the budget meets all categories alike
        turns = itertools.zip_longest(*by_category)
        return [request for turn in turns for request in turn if request is not None]

    def _paraphrase_requests(
        self, train: Mapping[str, Sequence[str]], missing: Mapping[str, int], round_: int
    ) -> list[_Request]:
        out, size = [], self.spec.paraphrased_together
        for category in CATEGORIES:
            open_ = [t for t in train[category] if missing[t] > 0]
            for start in range(0, len(open_), size):
                texts = tuple(open_[start : start + size])
                count = math.ceil(SPARE * max(missing[t] for t in texts))
                messages = paraphrase_messages(category, texts, count, round_, self.seed)
                out.append(_Request(category, Prompt(messages, PARAPHRASE_SCHEMA), texts))
        return out

    def _check(self, found: int, wanted: int, what: str, key: str) -> None:
        if found >= wanted:
            return
        why = "; ".join(
            f"{n} × {reason}" for reason, n in list(self.selection.reasons().items())[:3]
        )
        line = f"{what}: {found} of {wanted} after llm.requests={self.spec.requests}"
        if why:
            line += f" (rejected: {why})"
        if not self.spec.allow_fewer:
            raise ConceptError(
                f"{line}. Raise llm.requests, lower llm.{key}, take another model, or give"
                " llm.allow_fewer=true"
            )
        self.shortfalls.append(line)
        self.log(f"concepts: too few {line}")


def written_concepts(
    split: Mapping[str, Mapping[str, Sequence[str]]], paraphrases: Sequence[tuple[str, str]]
) -> list[Concept]:
    """Concepts without families or edit: training, validation, test, then paraphrases."""
    out = [
        Concept(concept_id(text), text, category, (), name, "" if name == "train" else "atoms")
        for name in ("train", "val", "test")
        for category in CATEGORIES
        for text in split[name][category]
    ]
    parents = {c.text: c for c in out}
    for parent, text in paraphrases:
        p = parents[parent]
        out.append(
            Concept(
                concept_id(text), text, p.category, (), "train", "", "paraphrased", (p.concept_id,)
            )
        )
    return out


def combined_concept(parts: Sequence[str], split: str, *, adapter: bool = True) -> Concept:
    """The combination of training texts, in their order."""
    text = ", ".join(parts)
    return Concept(
        concept_id=concept_id(text),
        text=text,
        category="combined",
        families=(),
        split=split,
        heldout="" if split == "train" else "combinations",
        origin="combined",
        parents=tuple(concept_id(part) for part in parts),
        adapter=adapter,
    )


def _usable(answer: Answer) -> str:
    """The answer's text; AnswerError for one that was refused, or cut before its end."""
    if answer.finish == "refusal":
        raise AnswerError("refusal")
    if answer.finish == "length":
        raise AnswerError("malformed: cut at max_tokens")
    return answer.text
