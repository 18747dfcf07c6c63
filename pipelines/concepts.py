"""Stage `concepts`: which concepts there are, which are held out, and their text embeddings.

Held-out sets are decided here, by the seed, before anything is trained. Texts are embedded once;
no later stage loads the text encoder.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch

from modeling.concepts import (
    Concept,
    ConceptError,
    ConceptSpec,
    from_table,
    plan_concepts,
    to_table,
)
from modeling.editors import supports
from modeling.text import TextEmbedding, TextEncoder
from pipelines.artifacts import RunDir
from pipelines.config import Config, ConfigError, resolve_editor
from pipelines.log import log

CONCEPTS, TEXT = "concepts.parquet", "text.parquet"
TEXT_SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("length", pa.int32()),
        ("tokens", pa.list_(pa.float32())),  # [length · D], row-major, unpadded
        ("pooled", pa.list_(pa.float32())),  # [D]
    ]
)


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    try:
        concepts = plan_concepts(
            ConceptSpec(**asdict(config.concepts)), config.seed, supports(resolve_editor(config))
        )
    except ConceptError as error:
        raise ConfigError(f"concepts: {error}") from error
    encoder = TextEncoder(config.text_encoder)
    embeddings = encoder.encode([c.text for c in concepts])
    rows = [
        {
            "concept_id": c.concept_id,
            "length": e.tokens.shape[0],
            "tokens": e.tokens.flatten().tolist(),
            "pooled": e.pooled.tolist(),
        }
        for c, e in zip(concepts, embeddings, strict=True)
    ]
    run_dir.write_table(TEXT, pa.Table.from_pylist(rows, TEXT_SCHEMA))
    run_dir.write_table(CONCEPTS, to_table(concepts))
    counts: dict[str, int] = {}
    for c in concepts:
        key = c.origin if c.split == "train" else f"{c.split} {c.heldout}"
        key = key if c.adapter or key == "paraphrased" else f"{key}, pairs only"
        counts[key] = counts.get(key, 0) + 1
    log("concepts: " + ", ".join(f"{n} {key}" for key, n in counts.items()))
    return {"counts": counts, "text_dim": encoder.dim}


def load_concepts(run_dir: RunDir) -> list[Concept]:
    return from_table(run_dir.read_table(CONCEPTS))


def with_pairs(concepts: list[Concept]) -> list[Concept]:
    """Concepts that have images of their own: paraphrases share their parent's."""
    return [c for c in concepts if c.origin != "paraphrased"]


def with_adapter(concepts: list[Concept]) -> list[Concept]:
    """Those of them for which an adapter is collected."""
    return [c for c in with_pairs(concepts) if c.adapter]


def load_text(run_dir: RunDir) -> dict[str, TextEmbedding]:
    """Embedding of every concept, by concept_id."""
    out = {}
    for row in run_dir.read_table(TEXT).to_pylist():
        tokens = torch.tensor(row["tokens"]).view(row["length"], -1)
        out[row["concept_id"]] = TextEmbedding(tokens, torch.tensor(row["pooled"]))
    return out
