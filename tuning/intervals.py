"""Means with 95 % intervals, and the refusal to compare scores of unequally many images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modeling.metrics.distances import paired_bootstrap
from tuning.study import StudyError

Mean = dict[str, Any]
"""mean; lo and hi, None for a single value; n, the number of values."""


def over_seeds(values: Sequence[float]) -> Mean:
    """Mean and Student's t interval: seeds are few, and a bootstrap of few is too narrow."""
    from scipy.stats import t

    n = len(values)
    if n == 0 or not all(math.isfinite(v) for v in values):
        raise StudyError(f"no mean of {n} values, or of values that are not finite: {values}")
    mean = float(np.mean(values))
    if n == 1:
        return {"mean": mean, "lo": None, "hi": None, "n": 1}
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return {"mean": mean, "lo": mean - half, "hi": mean + half, "n": n}


def over_concepts(values: Sequence[float]) -> Mean:
    """Mean and bootstrap interval over concepts, whose seeds are averaged first."""
    if len(values) < 2:
        return over_seeds(values)
    mean, lo, hi = paired_bootstrap(np.array(values))
    return {"mean": mean, "lo": lo, "hi": hi, "n": len(values)}


def check_equal(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise StudyError unless a concept's rows of all variants stand on equally many images.

    A Fréchet distance is biased by n, and so is a comparison of any score on other images.
    """
    found: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for row in rows:
        for score, count in (("l1", "n"), ("kid", "n"), ("fd", "fd_n")):
            if row[score] is not None:
                key = (row["concept_id"], row.get("heldout") or "", score)
                found[key].setdefault(row[count], row["variant"])
    for (concept_id, _, score), counts in found.items():
        if len(counts) > 1:
            (n, first), (m, second) = list(counts.items())[:2]
            raise StudyError(
                f"{score} of {concept_id} is taken on {n} images in {first!r} and on {m} in"
                f" {second!r}: they must not be compared; give equal evaluate.images and"
                " evaluate.fd_images"
            )


def text(value: Mean | None, digits: int) -> str:
    """'0.123 ± 0.004'; an interval that is not symmetric as '0.123 (0.119 to 0.128)'."""
    if value is None:
        return ""
    mean, lo, hi = value["mean"], value["lo"], value["hi"]
    out = f"{mean:.{digits}f}"
    if lo is None:
        return out
    if math.isclose(mean - lo, hi - mean, rel_tol=1e-6, abs_tol=1e-12):
        return f"{out} ± {hi - mean:.{digits}f}"
    return f"{out} ({lo:.{digits}f} to {hi:.{digits}f})"
