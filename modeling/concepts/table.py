"""Concepts as the rows of a table, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from modeling.concepts.concept import SPLITS, Concept, ConceptError
from modeling.concepts.grammar.family import CATEGORIES

# concept_id: file-safe; families, parents, adapter: see Concept; edit: a JSON object of strings.
SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("families", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("heldout", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("parents", pa.list_(pa.string()), nullable=False),
        pa.field("edit", pa.string(), nullable=False),
        pa.field("adapter", pa.bool_(), nullable=False),
    ]
)


def to_table(concepts: Sequence[Concept]) -> pa.Table:
    """Return the concepts as a table of SCHEMA, one row each."""
    rows = [
        {
            **vars(concept),
            "families": list(concept.families),
            "parents": list(concept.parents),
            "edit": json.dumps(concept.edit, sort_keys=True),
        }
        for concept in concepts
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Concept]:
    """Read concepts back from a table of SCHEMA; raises ConceptError for any other."""
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ConceptError(f"the concept table lacks the columns {', '.join(missing)}")
    return [_from_row(row) for row in table.select(SCHEMA.names).to_pylist()]


def _from_row(row: dict[str, Any]) -> Concept:
    try:
        edit = json.loads(row["edit"])
        if not isinstance(edit, dict) or not all(isinstance(v, str) for v in edit.values()):
            raise ValueError("edit is no JSON object of strings")
        if row["split"] not in SPLITS:
            raise ValueError(f"split {row['split']!r} is none of {', '.join(SPLITS)}")
        if row["category"] not in (*CATEGORIES, "combined"):
            raise ValueError(f"unknown category {row['category']!r}")
        values = {**row, "edit": edit}
        values |= {key: tuple(row[key]) for key in ("families", "parents")}
        return Concept(**values)
    except (TypeError, ValueError) as error:
        raise ConceptError(f"the concept {row['concept_id']!r} cannot be read: {error}") from error
