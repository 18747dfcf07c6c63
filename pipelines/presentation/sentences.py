"""The sentences made from the numbers, losses included.

A sentence never claims more than its interval: a difference whose 95 % interval holds zero is
called no clear difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.presentation.words import FEW, count, duration
from pipelines.stages.contenders import (
    CEILING,
    IDENTITY,
    PREDICTION,
    REFERENCES,
    SHUFFLED,
    UNREFINED,
    ZERO_REFINED,
    is_generator,
)

SAME_STARTS = (UNREFINED, ZERO_REFINED)
"""Before any step they are what another row is."""

# how a comparison is put into words; the last three where there are too few concepts
WORDS = {
    "better": "beats",
    "worse": "loses to",
    "undecided": "shows no clear difference to",
    "ahead": "is ahead of",
    "behind": "is behind",
    "equal": "is equal to",
}


def sentences(heldout: str, numbers: Mapping[str, Any]) -> list[str]:
    """What the numbers of one held-out set say, losses included, in two or three sentences."""
    methods, against, last = numbers["methods"], numbers["against"], numbers["last_step"]
    ours = methods.get(PREDICTION, {}).get("before")
    if ours is None:
        return [f"For {count(numbers['concepts'], heldout)} no predicted adapter was scored."]
    others = [
        f"{name} {m['before']['l1']:.3f}"
        for name, m in methods.items()
        if m["before"] and name not in (PREDICTION, IDENTITY, SHUFFLED, *REFERENCES, *SAME_STARTS)
    ]
    start = f"For {count(ours['concepts'], heldout)} the predicted adapter, made in"
    start += f" {duration(ours['seconds'])}, starts at L1 {ours['l1']:.3f}"
    start += f" ({', '.join(others)})." if others else "."
    out = [start]
    verdict = verdicts(
        {name: a["before"] for name, a in against.items() if name not in SAME_STARTS}
    )
    if verdict:
        out.append(f"Before any fine-tuning it {verdict}.")
    refined = methods[PREDICTION].get("learned")
    if refined is not None:
        several = "s" if numbers["learned"] > 1 else ""
        said = f"{numbers['learned']} learned step{several} on example pairs"
        out.append(f"After {said} it stands at L1 {refined['l1']:.3f}.")
    tuned = methods[PREDICTION]["after"]
    if last > 0 and tuned is not None:
        steps = f"After {last} fine-tuning step{'s' if last > 1 else ''}"
        end = f"{steps} ({duration(tuned['seconds'])}) it stands at L1 {tuned['l1']:.3f}"
        verdict = verdicts({name: a["after"] for name, a in against.items()})
        out.append(end + (f" and {verdict}" if verdict else "") + ".")
    ceiling = methods.get(CEILING, {}).get("after")
    if ceiling is not None:
        out.append(
            f"An adapter trained from zero on the true edits reaches L1 {ceiling['l1']:.3f}"
            f" in {ceiling['step']} steps ({duration(ceiling['seconds'])})."
        )
    return out


def verdicts(comparisons: Mapping[str, Mapping[str, Any] | None]) -> str:
    """'beats A and B (12 of 12 concepts each); it loses to C (2 of 12)'."""
    groups: dict[str, list[tuple[str, str]]] = {key: [] for key in WORDS}
    for method, c in comparisons.items():
        if c is None or method in REFERENCES or is_generator(method):
            continue
        key = c["verdict"]
        if key == "few":
            key = "ahead" if c["mean"] < 0 else "behind" if c["mean"] > 0 else "equal"
        groups[key].append((method, f"{c['wins']} of {c['total']}"))
    parts = [f"{WORDS[key]} {_listed(members)}" for key, members in groups.items() if members]
    if groups["ahead"] or groups["behind"] or groups["equal"]:
        parts[-1] += f"; with fewer than {FEW} concepts that decides nothing"
    return "; it ".join(parts)


def _listed(members: Sequence[tuple[str, str]]) -> str:
    """Names with their wins, those with equal wins together."""
    unit = " concept" if all(wins.endswith(" of 1") for _, wins in members) else " concepts"
    by_wins: dict[str, list[str]] = defaultdict(list)
    for method, wins in members:
        by_wins[wins].append(method)
    return _join(
        [
            f"{_join(names)} ({wins}{unit if i == 0 else ''}{' each' if names[1:] else ''})"
            for i, (wins, names) in enumerate(by_wins.items())
        ]
    )


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
