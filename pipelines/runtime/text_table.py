"""text.parquet: the texts' embeddings, written in batches and read without Python numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from modeling.text import TextColumns, TextEmbedding
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.unpacked_text import NamedColumns, joined, unpacked

TEXT = "text.parquet"
MAPPED = 2**28
"""Bytes of a table above which it is mapped: some ten thousand concepts."""
SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("length", pa.int32()),
        ("tokens", pa.list_(pa.float32())),  # [length · D], row-major, unpadded
        ("pooled", pa.list_(pa.float32())),  # [D]
    ]
)


class TextWriter:
    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def add(self, concept_ids: Sequence[str], columns: TextColumns) -> None:
        """One row group: a batch of concepts and their embeddings."""
        n, dim = columns.pooled.shape
        if not n:
            return
        ends = np.concatenate([[0], np.cumsum(columns.lengths, dtype=np.int64) * dim])
        table = pa.table(
            [
                pa.array(concept_ids, pa.string()),
                pa.array(columns.lengths, pa.int32()),
                _lists(ends, columns.tokens),
                _lists(np.arange(n + 1) * dim, columns.pooled),
            ],
            schema=SCHEMA,
        )
        self._writer.write_table(table)


@contextmanager
def writing_text(run_dir: RunDir) -> Iterator[TextWriter]:
    """The table is there once the block ends well."""
    # floats do not repeat: a dictionary of them would only cost time
    options = {"compression": "zstd", "use_dictionary": False}
    with run_dir.writing(TEXT) as file, pq.ParquetWriter(file, SCHEMA, **options) as writer:
        yield TextWriter(writer)


class Texts(Mapping[str, TextEmbedding]):
    """Embedding of every concept, by concept_id; each is copied out when it is asked for.

    A table above MAPPED is unpacked once a node, and shared by its processes (unpacked_text).
    Raises ArtifactError if the table is missing or damaged, or there is no room to unpack it.
    """

    def __init__(self, run_dir: RunDir) -> None:
        if run_dir.size(TEXT) > MAPPED:
            columns = unpacked(run_dir, TEXT, lambda: _groups(run_dir))
        else:
            columns = joined(_groups(run_dir))
        self._tokens, self._pooled = columns.tokens, columns.pooled
        self._row = {concept_id: i for i, concept_id in enumerate(columns.ids)}
        self._ends = np.concatenate([[0], np.cumsum(columns.lengths, dtype=np.int64)])

    def __getitem__(self, concept_id: str) -> TextEmbedding:
        i = self._row[concept_id]
        tokens = self._tokens[self._ends[i] : self._ends[i + 1]]
        return TextEmbedding(torch.tensor(tokens), torch.tensor(self._pooled[i]))

    def pooled(self, concept_ids: Sequence[str]) -> torch.Tensor:
        """float32 [n, D], without a look at the tokens."""
        return torch.from_numpy(self._pooled[[self._row[i] for i in concept_ids]])

    @property
    def dim(self) -> int:
        return int(self._pooled.shape[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def _groups(run_dir: RunDir) -> Iterator[NamedColumns]:
    for group in run_dir.read_row_groups(TEXT):
        columns = [group.column(name).combine_chunks() for name in ("tokens", "pooled")]
        tokens, pooled = (c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns)
        vectors = pooled.flatten().to_numpy().reshape(len(group), -1)
        yield NamedColumns(
            group.column("concept_id").to_pylist(),
            group.column("length").to_numpy(),
            tokens.flatten().to_numpy().reshape(-1, vectors.shape[1]),
            vectors,
        )


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values.reshape(-1), pa.float32())
    )
