"""Stage `concepts`: which concepts there are, which are held out, and their text embeddings.

Held-out sets are decided here, by the seed, before anything is trained. Texts are embedded once;
no later stage loads the text encoder.
"""

from __future__ import annotations

from typing import Any

from modeling.concepts.concept import Concept, ConceptError
from modeling.concepts.planning import plan_concepts
from modeling.concepts.table import from_table, to_table
from modeling.editors.registry import supports
from modeling.text import TextEncoder
from pipelines.config.derived import resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.text_table import Texts, writing_text
from pipelines.stages.source_list import record_sources
from pipelines.stages.writing import embed, write

CONCEPTS = "concepts.parquet"


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    if not finished(run_dir, "pairs"):  # which has all that it needs of the pictures
        record_sources(config, run_dir)  # before a language model's answers are paid for
    encoder = TextEncoder(config.text_encoder, config.allow_download)
    about: dict[str, Any] = {}
    try:
        with writing_text(run_dir) as table:
            if config.concepts.source == "llm":
                concepts, about = write(config, run_dir, encoder, table)
            else:
                supported = supports(resolve_editor(config))
                concepts = plan_concepts(config.concepts, config.seed, supported)
                embed(encoder, table, concepts)
    except ConceptError as error:
        raise ConfigError(f"concepts: {error}") from error
    run_dir.write_table(CONCEPTS, to_table(concepts))
    counts: dict[str, int] = {}
    for c in concepts:
        key = c.origin if c.split == "train" else f"{c.split} {c.heldout}"
        key = key if c.adapter or key == "paraphrased" else f"{key}, pairs only"
        counts[key] = counts.get(key, 0) + 1
    log("concepts: " + ", ".join(f"{n} {key}" for key, n in counts.items()))
    return {"counts": counts, "text_dim": encoder.dim, **about}


def load_concepts(run_dir: RunDir) -> list[Concept]:
    return from_table(run_dir.read_table(CONCEPTS))


def with_pairs(concepts: list[Concept]) -> list[Concept]:
    """Concepts that have images of their own: paraphrases share their parent's."""
    return [c for c in concepts if c.origin != "paraphrased"]


def with_adapter(concepts: list[Concept]) -> list[Concept]:
    """Those of them for which an adapter is collected."""
    return [c for c in with_pairs(concepts) if c.adapter]


def load_text(run_dir: RunDir) -> Texts:
    """Embedding of every concept, by concept_id."""
    return Texts(run_dir)
