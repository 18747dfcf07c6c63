"""How many concepts, pictures and edits a configuration asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

from modeling.concepts.concept import ConceptError
from modeling.concepts.planning import plan_concepts
from modeling.concepts.recipe import ConceptSpec
from modeling.editors.registry import supports
from modeling.settings import taken
from pipelines.config.derived import resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config

COMBINED = ("train", "paired", "val", "test")


@dataclass(frozen=True)
class ConceptCounts:
    """How many concepts there are; `heldout` by split, then by set."""

    train: int
    """With an adapter."""
    paired: int
    """For training, with pairs but no adapter."""
    paraphrases: int
    heldout: Mapping[str, Mapping[str, int]]

    def of(self, split: str) -> int:
        return sum(self.heldout[split].values())

    @property
    def full(self) -> int:
        """With all images: those that get an adapter, and the held-out ones."""
        return self.train + self.of("val") + self.of("test")

    @property
    def texts(self) -> int:
        return self.full + self.paired + self.paraphrases


def concept_counts(config: Config) -> ConceptCounts:
    """Counts of stage `concepts`; ConfigError where that stage could not have them.

    Single concepts are planned, combinations and paraphrases are only counted, as planning 84,477
    of them takes a while: whether the grammar has so many is found by the stage.
    """
    c = config.concepts
    if c.source == "llm":
        return _written_counts(config)
    counted = dict.fromkeys((*(f"{s}_combinations" for s in COMBINED), "paraphrases"), 0)
    spec = json.dumps(asdict(taken(ConceptSpec, config.concepts)) | counted)
    planned = _single_concepts(spec, config.seed, resolve_editor(config))

    def single(split: str, heldout: str = "", adapter: bool = True) -> int:
        return planned.get((split, heldout, adapter), 0)

    train = single("train") + c.train_combinations
    paired = single("train", adapter=False) + c.paired_combinations
    combinations = {"val": c.val_combinations, "test": c.test_combinations}
    return ConceptCounts(
        train,
        paired,
        c.paraphrases * (train + paired),
        {
            split: {
                "atoms": single(split, "atoms"),
                "combinations": count,
                "families": single(split, "families"),
            }
            for split, count in combinations.items()
        },
    )


def _written_counts(config: Config) -> ConceptCounts:
    """Those of concepts that a language model writes, if it writes as many as it is asked for."""
    c, llm = config.concepts, config.llm
    total, test, val, paraphrases = (
        sum(asdict(per_category).values())
        for per_category in (llm.counts, llm.test, llm.val, llm.paraphrases)
    )
    return ConceptCounts(
        total - test - val + c.train_combinations,
        c.paired_combinations,
        paraphrases,
        {
            "val": {"atoms": val, "combinations": c.val_combinations},
            "test": {"atoms": test, "combinations": c.test_combinations},
        },
    )


@cache
def _single_concepts(spec: str, seed: int, editor: str) -> dict[tuple[str, str, bool], int]:
    """Single concepts by split, held-out set, and whether they get an adapter."""
    try:
        concepts = plan_concepts(ConceptSpec(**json.loads(spec)), seed, supports(editor))
    except ConceptError as error:
        raise ConfigError(f"concepts: {error}") from error
    return dict(Counter((c.split, c.heldout, c.adapter) for c in concepts))


def candidate_editors(config: Config) -> list[str]:
    """Editors that the pairs are made by: one, or several of which a concept's best is chosen."""
    editor = resolve_editor(config)
    return list(config.editing.candidates) if editor == "best" else [editor]


def edits(concepts: int, images: int, pilots: int, editors: int) -> tuple[float, float]:
    """Edits that choose the editor, and those that are kept, of concepts with all images.

    Each is tried on `pilots` images of every concept (0: there is no choice); the best then edits
    all, the pilots again.
    """
    return float(concepts * pilots * editors), float(concepts * images)


def image_splits(images: int) -> dict[str, int]:
    """pipelines.stages.pairs.split_images, in numbers."""
    tenth = max(1, images // 10)
    return {"train": images - 2 * tenth, "val": tenth, "test": tenth}
