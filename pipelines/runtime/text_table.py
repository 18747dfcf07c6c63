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

TEXT = "text.parquet"
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
    """Embedding of every concept, by concept_id; each is copied out when it is asked for."""

    def __init__(self, run_dir: RunDir) -> None:
        self._where: dict[str, tuple[int, int]] = {}
        self._groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for group in run_dir.read_row_groups(TEXT):
            columns = [group.column(name).combine_chunks() for name in ("tokens", "pooled")]
            tokens, pooled = (c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns)
            for i, concept_id in enumerate(group.column("concept_id").to_pylist()):
                self._where[concept_id] = (len(self._groups), i)
            self._groups.append(
                (
                    tokens.offsets.to_numpy(),
                    tokens.values.to_numpy(),
                    pooled.flatten().to_numpy().reshape(len(group), -1),
                )
            )

    def __getitem__(self, concept_id: str) -> TextEmbedding:
        group, i = self._where[concept_id]
        offsets, tokens, pooled = self._groups[group]
        flat = torch.tensor(tokens[offsets[i] : offsets[i + 1]])
        return TextEmbedding(flat.view(-1, pooled.shape[1]), torch.tensor(pooled[i]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values.reshape(-1), pa.float32())
    )
