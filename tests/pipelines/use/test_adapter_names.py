"""Names of adapters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.use.adapter_names import Ask, name_of, parse


@settings(max_examples=200, deadline=None)
@given(
    concept=st.text(min_size=1, max_size=50),
    seed=st.integers(0, 2**63 - 1),
    t=st.integers(0, 999),
    steps=st.integers(1, 50),
)
def test_names_of_adapters_are_an_exact_inverse(
    concept: str, seed: int, t: int, steps: int
) -> None:
    wanted = Ask(concept, seed, t, steps)
    assert parse(name_of(wanted, "0123456789abcdef")) == (wanted, "0123456789ab")
