"""Which of several editors is the best for a concept.

The paper keeps the edit "of best perceptual quality" (Sec. 5.1) and does not say how that is
measured. Here: CLIP directional similarity × identity preservation × no-reference image quality
(modeling/editors/scores.py), over a few pilot images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

PARTS = ("direction", "identity", "quality")


def overall(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The product of the parts, each to the power of its weight (1 where none is given).

    A negative part, such as a change away from the text, counts as 0.
    """
    return float(np.prod([max(parts[p], 0.0) ** weights.get(p, 1.0) for p in PARTS]))


def best_editor(scores: Mapping[str, Sequence[float]], pictures: int) -> str:
    """The editor with the highest mean over the pilot pictures; "" if none made a picture.

    scores: editor → scores of the pictures that it made; one that failed counts as 0. The first
    of equals wins.
    """
    means = {name: sum(s) / pictures for name, s in scores.items() if s}
    return max(means, key=lambda name: means[name]) if means else ""
