"""How numbers and held-out sets are put into words on every page."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 5  # below this many concepts nothing is called better or worse

# held-out set -> what one of its concepts is called, and what was unseen
HELD_OUT = {
    "combinations": (
        "unseen combination",
        "training saw every part of them, never these parts together",
    ),
    "atoms": (
        "unseen single concept",
        "training saw others of their kind, never these",
    ),
    "families": (
        "unseen-family concept",
        "training saw no concept of their families",
    ),
}


def plural(heldout: str) -> str:
    """What the concepts of a held-out set are called: 'unseen combinations'."""
    return (
        f"{HELD_OUT[heldout][0]}s" if heldout in HELD_OUT else f"concepts of {heldout or 'no'} set"
    )


def count(n: int, heldout: str) -> str:
    """How many concepts of a held-out set, in words: '3 unseen combinations'."""
    return f"{n} {HELD_OUT[heldout][0] if n == 1 and heldout in HELD_OUT else plural(heldout)}"


def unseen(heldout: str) -> str:
    """What training did not see of a held-out set; empty for a set of another name."""
    return HELD_OUT[heldout][1] if heldout in HELD_OUT else ""


def duration(seconds: float) -> str:
    """4 ms, 0.24 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 2 * 3600 - 0.5:
        whole, rest, units = *divmod(round(seconds), 60), ("min", "s")
    else:
        whole, rest, units = *divmod(round(seconds / 60), 60), ("h", "min")
    return f"{whole} {units[0]} {rest} {units[1]}" if rest else f"{whole} {units[0]}"


def fixed(value: float, digits: int) -> str:
    """So many digits after the point, a true minus; zero after rounding has no sign."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def signed(value: float, digits: int) -> str:
    """With its sign, a true minus; zero after rounding has none."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def span(values: Sequence[int]) -> str:
    """The ends of sorted numbers: '8', '8 to 12'; '0' for none."""
    if not values:
        return "0"
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def sooner(ratio: float) -> str:
    """Of two times, the other's ÷ ours: '2.5 times sooner', '1,200 times sooner', 'as soon'."""
    way, often = ("sooner", ratio) if ratio >= 1 else ("later", 1 / ratio)
    if often < 1.05:
        return "as soon"
    return f"{often:,.0f} times {way}" if often >= 100 else f"{often:.1f} times {way}"
