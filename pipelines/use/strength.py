"""How much of an adapter's change a picture gets."""

from __future__ import annotations

MOST = 1.5
"""Beyond it, what was learned of the change is exaggerated past use."""


class StrengthError(ValueError):
    """A strength that there is not."""


def checked(strength: float) -> float:
    """StrengthError unless it is from 0, the picture as it is, to MOST; 1 is what was learned."""
    if not 0 <= strength <= MOST:  # also not a number
        raise StrengthError(f"strength={strength:g}: must be from 0 to {MOST:g}")
    return float(strength)
