"""When training has converged, and which checkpoints are kept: one rule for all concepts.

The paper keeps K checkpoints "after the FID performance converges" (Sec. 4.1) without saying how
that is decided. Here: the first scored step after which no later score is better by more than a
tolerance. It is applied to the mean over pilot concepts, because adapters are comparable only
when all take equally many steps. Training then goes on for as long as K checkpoints need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def converged_at(
    steps: Sequence[int], scores: Sequence[float], tolerance: float, scale: float | None = None
) -> int:
    """The first of `steps` (ascending) whose score (lower is better) is within a relative
    `tolerance` of the best score at or after it. Scores may be negative, as KID's can.

    The tolerance is a part of that best score, or of `scale` where the best is near zero and part
    of it would be noise: KID, whose scale is the score that training starts from.
    ValueError on empty or non-finite input or a negative tolerance.
    """
    if not steps or len(steps) != len(scores):
        raise ValueError(f"{len(steps)} steps with {len(scores)} scores")
    if not all(math.isfinite(s) for s in scores):
        raise ValueError("scores must be finite")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    if scale is not None and not math.isfinite(scale):
        raise ValueError("scores must be finite, also the one that is the scale")
    best = math.inf
    answer = steps[-1]
    for step, score in zip(reversed(steps), reversed(scores), strict=True):
        best = min(best, score)
        if score <= best + tolerance * abs(best if scale is None else scale):
            answer = step
    return answer


def kept_steps(steps: int, count: int) -> list[int]:
    """The `count` (K) steps whose checkpoints are kept of a training of `steps` steps, ascending:
    evenly over the last quarter, the last step included.

    ValueError unless 1 ≤ K ≤ what a quarter of the steps has room for (1 always fits).
    """
    if steps < 1 or count < 1 or count > max(1, steps // 4):
        raise ValueError(f"{count} checkpoints do not fit in the last quarter of {steps} steps")
    return [-(-steps * (4 * count - i) // (4 * count)) for i in reversed(range(count))]  # ceiling


def steps_to_train(converged: int, count: int) -> int:
    """How many steps to train so that all `count` kept checkpoints are at or after `converged`.

    The fewest for which `kept_steps` fits and starts there: `converged` itself for one checkpoint,
    at most a third more for many. ValueError unless both are 1 or more.
    """
    if converged < 1 or count < 1:
        raise ValueError(f"{count} checkpoints after step {converged}: both start at 1")
    if count == 1:
        return converged
    # the first one kept is ceil(steps · (3K + 1) / 4K)
    fewest = (converged - 1) * 4 * count // (3 * count + 1) + 1
    return max(fewest, 4 * count)
