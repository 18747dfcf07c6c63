"""Numbers in words."""

from __future__ import annotations

import pytest

from pipelines.presentation.words import count, duration, fixed, signed, sooner, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0039, "3.9 ms"),
        (0.0994, "99 ms"),
        (0.243, "0.24 s"),
        (12.4, "12 s"),
        (200, "3 min 20 s"),
        (659.8, "11 min"),
        (7199.6, "2 h"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0123, 3, "+0.012"), (-0.0123, 3, "−0.012"), (-0.0001, 3, "0.000"), (0.0, 2, "0.00")],
)
def test_a_difference_has_a_sign_unless_it_rounds_to_zero(
    value: float, digits: int, text: str
) -> None:
    assert signed(value, digits) == text


def test_numbers_have_a_true_minus() -> None:
    assert (fixed(-0.514, 2), fixed(-0.001, 2), fixed(0.5, 1)) == ("−0.51", "0.00", "0.5")


def test_sooner_and_later_are_said_as_such() -> None:
    said = [sooner(ratio) for ratio in (1234.0, 2.5, 1.02, 0.98, 0.1)]
    assert said == [
        "1,234 times sooner",
        "2.5 times sooner",
        "as soon",
        "as soon",
        "10.0 times later",
    ]


def test_counts_and_spans() -> None:
    assert count(1, "atoms") == "1 unseen single concept"
    assert count(3, "combinations") == "3 unseen combinations"
    assert count(1, "mine") == "1 concepts of mine set"
    assert (span([]), span([8]), span([8, 9, 12])) == ("0", "8", "8 to 12")
