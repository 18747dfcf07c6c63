"""What makes a comparison fair, checked on what was done and not on what was meant.

Same unseen images, same number, same size and features for every method; and no method that was
trained on an image it is judged on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.runtime.stage_table import StageError

OVER_ALL = ("n", "size", "features", "device")
"""Equal over all rows of a comparison."""


class UnfairError(StageError):
    """A comparison that must not be made; the text says why."""


def check_unseen(judged: Sequence[str], trained: Iterable[str], what: str) -> None:
    """Raise UnfairError if a judged picture was trained on.

    judged, trained: contents of source images by `judging.digests`. Contents and not names: a
    folder may hold one photograph twice.
    """
    both = set(judged) & set(trained)
    if both:
        raise UnfairError(
            f"{what} was trained on {len(both)} of the {len(judged)} images it is judged on:"
            " look for pictures that are twice in images.path, under two names"
        )


def check_alike(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise UnfairError unless all methods were judged on the same images in the same way.

    Each row has `method`, `concept_id`, `judged` (the digest of its images and their true edits),
    `epochs` (the budget) and the keys of OVER_ALL.
    """
    over_all: dict[str, dict[Any, str]] = {key: {} for key in OVER_ALL}
    judged: dict[str, dict[str, str]] = defaultdict(dict)
    budgets: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        for key, values in over_all.items():
            values.setdefault(row[key], row["method"])
        judged[row["concept_id"]].setdefault(row["judged"], row["method"])
        budgets[row["method"]].add(row["epochs"])
    for key, values in over_all.items():
        if len(values) > 1:
            (a, one), (b, other) = list(values.items())[:2]
            raise UnfairError(f"compare: {one} was judged at {key}={a}, {other} at {key}={b}")
    for concept_id, by_digest in judged.items():
        if len(by_digest) > 1:
            one, other = list(by_digest.values())[:2]
            raise UnfairError(
                f"compare: {one} and {other} were judged on different images of {concept_id}"
            )
    for method, epochs in budgets.items():
        if len(epochs) > 1:
            raise UnfairError(f"compare: {method} was trained for {sorted(epochs)} epochs")
