"""The report's tables of means: every method at both ends, and the prediction against it."""

from __future__ import annotations

from typing import Any

from pipelines.presentation.scores import Numbers, When, ends
from pipelines.stages.contenders import PREDICTION, REFERENCES

DIGITS = {"l1": 3, "kid": 4, "fd": 3}


def number_table(numbers: Numbers, frechet: str) -> Numbers:
    """One held-out set's table; numbers as of `numbers.summarise`, frechet: what `fd` is called.

    `scores`: names of those that any method has; a row's `ends`: its cells, score by score, before
    and after; its `against`: the comparisons before and after, None for the prediction itself.
    """
    both = ends(numbers["last_step"], numbers.get("learned", 0))
    methods = numbers["methods"]
    names = {"l1": "L1", "kid": "KID", "fd": frechet}
    there = ["l1"]
    there += [
        score
        for score in ("kid", "fd")
        if any(m[when] and m[when][score] is not None for m in methods.values() for when, _ in both)
    ]
    rows = []
    for name, method in methods.items():
        against = [numbers["against"][name][when] for when, _ in both if name != PREDICTION]
        last = method["after"] if name in REFERENCES else None
        rows.append(
            {
                "method": name,
                "steps": last["step"] if last else None,
                "ends": [_end(name, score, when, numbers) for score in there for when, _ in both],
                "against": against or None,
            }
        )
    return {
        "scores": [names[score] for score in there],
        "steps": [step for _, step in both],
        "rows": rows,
    }


def _end(name: str, score: str, when: When, numbers: Numbers) -> dict[str, Any]:
    """A method's mean at one end: the lowest L1 marked, the concepts where they are fewer.

    `value` is None without one, and `absent` says whether the method has no rows at all.
    """
    method = numbers["methods"][name]
    end = method[when]
    # what was trained at length has one state: it stands in the last column
    elsewhere = name in REFERENCES and when != "after" and numbers["last_step"] > 0
    if not end or end[score] is None or elsewhere:
        return {"value": None, "absent": not method["curve"]}
    rivals = [
        m[when]["l1"] for k, m in numbers["methods"].items() if k not in REFERENCES and m[when]
    ]
    return {
        "value": end[score],
        "digits": DIGITS[score],
        "lowest": score == "l1" and name not in REFERENCES and end["l1"] == min(rivals),
        "concepts": end["concepts"] if end["concepts"] < numbers["concepts"] else None,
    }
