"""Reasons are one line, and equal in equal runs."""

from __future__ import annotations

import io

import pytest

from modeling.reasons import one_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError(f"cannot identify {io.BytesIO()!r}"), "cannot identify <_io.BytesIO>"),
        (ValueError("<function f at 0x7f12aB>: no"), "<function f>: no"),
        (KeyError(), "KeyError"),
        (ValueError("look at 0.5"), "look at 0.5"),
        ("a text of <x.Y object at 0x1> and <x.Z object at 0x2>", "a text of <x.Y> and <x.Z>"),
    ],
)
def test_one_line(error: Exception | str, said: str) -> None:
    assert one_line(error) == said
