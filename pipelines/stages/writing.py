"""The source `llm` of the stage `concepts`: what a language model writes, paraphrased, combined."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from modeling.concepts.concept import Concept, ConceptError
from modeling.concepts.near_duplicates import NearDuplicates
from modeling.concepts.recipe import WritingSpec
from modeling.concepts.writer import ConceptWriter, combined_concept, written_concepts
from modeling.settings import taken
from modeling.text import TextEncoder
from pipelines.config.schema import Config
from pipelines.config.sections.data import LanguageModelKeys
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.text_table import TextWriter
from pipelines.stages.asking import Asker

REJECTED = "concepts/rejected.parquet"
REJECTED_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("category", pa.string()),
        ("reason", pa.string()),
        ("request", pa.int32()),  # its number, from 1
    ]
)
CHUNK = 4096
"""Texts that are embedded between two writes."""
TRAINED, ALONE = 128, 1
"""Texts that are embedded in one call: those of held-out concepts alone, as a user's is, or a
prediction by stage `adapt` would differ from a user's in its last bits."""


def writing_spec(config: Config) -> WritingSpec:
    llm = config.llm
    keys = ("counts", "test", "val", "paraphrases")
    per_category: dict[str, Any] = {k: asdict(getattr(llm, k)) for k in keys}
    return taken(WritingSpec, llm, **per_category)


def paraphraser(config: Config) -> tuple[str, LanguageModelKeys]:
    """The second model's section and its keys; the first's where none is given."""
    llm = config.llm
    return ("paraphraser", llm.paraphraser) if llm.paraphraser.model else ("writer", llm.writer)


def write(
    config: Config, run_dir: RunDir, encoder: TextEncoder, table: TextWriter
) -> tuple[list[Concept], dict[str, Any]]:
    """The concepts, whose embeddings go into the table, and the summary of how they were made.

    Raises ConceptError if the counts cannot be met, LanguageModelError if a model does not answer.
    """
    llm, spec = config.llm, writing_spec(config)
    judge = encoder
    if llm.encoder != config.text_encoder:
        judge = TextEncoder(llm.encoder, config.allow_download)
    near = NearDuplicates(
        lambda texts: judge.encode_columns(texts).unit(), llm.similarity, llm.word_similarity
    )
    writer = ConceptWriter(spec, config.seed, near.embed, near, log)
    askers = {
        "writer": Asker(config, run_dir, "writer", llm.writer),
        "paraphraser": Asker(config, run_dir, *paraphraser(config)),
    }
    try:
        split = writer.hold_out(writer.write(askers["writer"]))
        heldout = [t for s in ("val", "test") for texts in split[s].values() for t in texts]
        paraphrases = writer.paraphrase(askers["paraphraser"], split["train"], heldout)
        concepts = written_concepts(split, paraphrases)
        embed(encoder, table, concepts)
        concepts += _combine(config, writer, split["train"], heldout, encoder, judge, table)
    finally:  # why there are too few, and what that cost
        usage = {role: asker.summary() for role, asker in askers.items() if asker.used}
        for role, used in usage.items():
            log(
                f"concepts: {role}: {used['requests']} requests ({used['kept']} answered before),"
                f" {used['prompt_tokens']} + {used['completion_tokens']} tokens, cost"
                f" {used['cost']:g} ({used['cost_now']:g} now)"
            )
        rejected = [asdict(r) for r in writer.selection.rejected]
        run_dir.write_table(REJECTED, pa.Table.from_pylist(rejected, REJECTED_SCHEMA))
    ids = Counter(c.concept_id for c in concepts)
    twice = next((i for i, n in ids.items() if n > 1), "")
    if twice:
        raise ConceptError(f"two concepts have the id {twice!r}: change the seed or llm.counts")
    return _ordered(concepts), {
        "llm": usage,
        "rejected": writer.selection.reasons(),
        "shortfalls": writer.shortfalls,
    }


def embed(encoder: TextEncoder, table: TextWriter, concepts: list[Concept]) -> None:
    """Embed the texts into the table, in batches."""
    progress = Progress("concepts: embeddings", len(concepts), "texts")
    for batch, of_split in ((TRAINED, True), (ALONE, False)):
        chosen = [c for c in concepts if (c.split == "train") is of_split]
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            columns = encoder.encode_columns([c.text for c in part], batch)
            table.add([c.concept_id for c in part], columns)
            progress.add(len(part))


def _combine(
    config: Config,
    writer: ConceptWriter,
    train: dict[str, list[str]],
    heldout: list[str],
    encoder: TextEncoder,
    judge: TextEncoder,
    table: TextWriter,
) -> list[Concept]:
    """Combinations of training concepts for every split, embedded into the table.

    One that says as a whole what a held-out concept says is passed over.
    """
    c = config.concepts
    kinds = (
        ("test", True, c.test_combinations, "test_combinations"),
        ("val", True, c.val_combinations, "val_combinations"),
        ("train", True, c.train_combinations, "train_combinations"),
        ("train", False, c.paired_combinations, "paired_combinations"),
    )
    total = sum(count for _, _, count, _ in kinds)
    progress = Progress("concepts: combinations", total, "texts")
    candidates = writer.combinations(train)
    found: list[Concept] = []
    for split, adapter, count, key in kinds:
        have = 0
        while have < count:
            parts = list(itertools.islice(candidates, min(CHUNK, count - have)))
            if not parts:
                raise ConceptError(
                    f"{key}: {count} wanted, but {have} combinations are left: write more by"
                    " llm.counts, or combine more by llm.combine"
                )
            made = [combined_concept(p, split, adapter=adapter) for p in parts]
            texts = [m.text for m in made]
            columns = encoder.encode_columns(texts, TRAINED if split == "train" else ALONE)
            unit = (columns if judge is encoder else judge.encode_columns(texts)).unit()
            leaks = writer.selection.repeats_heldout(texts, unit, heldout)
            for i, said in leaks.items():
                writer.selection.reject(texts[i], "combined", f"says held-out {said!r}")
            keep = np.array([i not in leaks for i in range(len(made))])
            kept = [m for m, good in zip(made, keep, strict=True) if good]
            table.add([m.concept_id for m in kept], columns.keep(keep))
            found += kept
            have += len(kept)
            progress.add(len(kept))
    return found


def _ordered(concepts: list[Concept]) -> list[Concept]:
    """Training first, then validation and test, then paraphrases; else as they came."""
    order = {"train": 0, "val": 1, "test": 2}
    return sorted(concepts, key=lambda c: (c.origin == "paraphrased", order[c.split]))
