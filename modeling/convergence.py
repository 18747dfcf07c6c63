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
    `tolerance` of the best score at or after it. ValueError on empty or non-finite input.
    """
    if not steps or len(steps) != len(scores):
        raise ValueError(f"{len(steps)} steps with {len(scores)} scores")
    if not all(math.isfinite(s) for s in scores):
        raise ValueError("scores must be finite")
    best = math.inf
    answer = steps[-1]
    for step, score in zip(reversed(steps), reversed(scores), strict=True):
        best = min(best, score)
        if score <= best * (1 + tolerance):
            answer = step
    return answer
