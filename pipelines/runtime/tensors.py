"""Tensor columns of tables as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def to_numpy(column: Any) -> np.ndarray:
    """A fixed-shape tensor column [rows] → float32 [rows, N, b]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.array(array.to_numpy_ndarray())  # Arrow's memory is read-only
