"""What is made of a finished run's rows: seconds of a serial pass, how soon a goal is reached."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.presentation.numbers import summarise
from pipelines.stages.contenders import CEILING, CONTINUED, PREDICTION, SCRATCH
from tuning.result import reach_lines, serial

SECONDS = {"predict": 0.5, "adapter_step": 0.1, "scratch_step": 0.2}


def rows_of(curves: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    return [
        {
            "method": method,
            "concept_id": "a",
            "text": "a",
            "heldout": "atoms",
            "seed": 0,
            "step": step,
            "seconds": 1e9,  # of a busy machine
            "l1": l1,
            "kid": None,
            "fd": None,
            "n": 4,
        }
        for method, curve in curves.items()
        for step, l1 in curve.items()
    ]


def test_serial_seconds_are_steps_times_seconds_a_step() -> None:
    methods = {
        PREDICTION: {4: 0.1},
        "zero LoRA": {4: 0.1},
        CONTINUED: {60: 0.1},
        SCRATCH: {30: 0.1},
    }
    got = {r["method"]: r["seconds"] for r in serial(rows_of(methods), SECONDS)}
    assert got == pytest.approx({PREDICTION: 0.9, "zero LoRA": 0.4, CONTINUED: 6.5, SCRATCH: 6.0})


def test_the_lines_say_how_much_sooner_and_when_never() -> None:
    rows = rows_of(
        {
            PREDICTION: {0: 0.3, 10: 0.1},
            CEILING: {0: 0.5, 60: 0.2},
            SCRATCH: {100: 0.05},
        }
    )
    methods = [PREDICTION, CEILING, SCRATCH]
    lines = reach_lines(summarise(serial(rows, SECONDS), methods))
    # 0.2 is crossed half-way, at 0.5 + 5 · 0.1 s; the reference needs 6 s
    assert any(
        f"reaches {CEILING} (0.2000, 6.00 s) in the mean 6.0 times sooner" in x for x in lines
    )
    assert any(f"reaches {SCRATCH}" in x and "never; 0 of 1" in x for x in lines)
