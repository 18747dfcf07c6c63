"""How much of an adapter's change a picture gets, and how several adapters go together.

A picture gets strength · (edited - picture) of each. Of two adapters that makes as good pictures as
the adapter predicted from the joined text: L1 to the true edit of 12 held-out combinations of
`small seed=4` .091 against .090 (left alone .454, the better of the two alone .157), of 24 more
.107 against .093 (the difference may be chance). Adding the weights B·A and the affines'
changes gives .227, their mean .172, one edit after the other .092 or .150, by their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MOST = 1.5
"""Beyond it, what was learned of the change is exaggerated past use."""
TOGETHER = 4
"""Adapters in one picture."""


class StrengthError(ValueError):
    """A strength that there is not, or too many adapters."""


def checked(strength: float) -> float:
    """StrengthError unless it is from 0, the picture as it is, to MOST; 1 is what was learned."""
    if not 0 <= strength <= MOST:  # also not a number
        raise StrengthError(f"strength={strength:g}: must be from 0 to {MOST:g}")
    return float(strength)


def mix_of(value: Any) -> list[tuple[str, float]]:
    """What JSON says of a mix: [["indigo hair", 1.0], ["sepia", 0.5]], as texts and strengths.

    StrengthError for anything else.
    """
    wanted = f'must be a list such as [["indigo hair", 1.0], ["sepia", 0.5]], {TOGETHER} at most'
    if not isinstance(value, list) or not 0 < len(value) <= TOGETHER:
        raise StrengthError(f"concepts {wanted}")
    out = []
    for entry in value:
        pair = isinstance(entry, list) and len(entry) == 2
        if not pair or not isinstance(entry[0], str) or type(entry[1]) not in (int, float):
            raise StrengthError(f"concepts {wanted}")
        out.append((entry[0], checked(entry[1])))
    return out


def counted(mix: Iterable[Any]) -> list[Any]:
    """StrengthError for none or more than TOGETHER."""
    found = list(mix)
    if not 0 < len(found) <= TOGETHER:
        raise StrengthError(f"{len(found)} adapters: from 1 to {TOGETHER} go together")
    return found
