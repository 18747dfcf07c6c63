"""When training has converged: the rule that fixes one number of steps for all concepts.

The paper keeps checkpoints "after the FID performance converges" (Sec. 4.1) without saying how that
is decided. Here: the first scored step after which no later score is better by more than a
tolerance. It is applied to the mean over pilot concepts, because adapters are comparable only
when all take equally many steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def converged_at(steps: Sequence[int], scores: Sequence[float], tolerance: float) -> int:
    """The first of `steps` (ascending) whose score (lower is better) is within a relative
    `tolerance` of the best score at or after it. Scores may be negative, as KID's can.

    ValueError on empty or non-finite input or a negative tolerance.
    """
    if not steps or len(steps) != len(scores):
        raise ValueError(f"{len(steps)} steps with {len(scores)} scores")
    if not all(math.isfinite(s) for s in scores):
        raise ValueError("scores must be finite")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    best = math.inf
    answer = steps[-1]
    for step, score in zip(reversed(steps), reversed(scores), strict=True):
        best = min(best, score)
        if score <= best + tolerance * abs(best):
            answer = step
    return answer
