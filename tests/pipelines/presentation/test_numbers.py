"""Means and differences: seeds count once, and comparing has no side."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.presentation.numbers import summarise
from pipelines.presentation.scores import compare, ends
from pipelines.stages.contenders import PREDICTION

ABOUT = {"text": "t", "heldout": "atoms", "seconds": 1.0, "kid": None, "fd": None, "n": 4}


def test_learned_steps_stand_between_the_ends() -> None:
    """At as many steps of every method, and said in a sentence; none where there are none."""
    rows = [
        {**ABOUT, "concept_id": c, "method": m, "seed": 0, "step": step, "l1": l1 + step / 100}
        for c in ("a", "b")
        for m, l1 in ((PREDICTION, 0.1), ("ridge", 0.2))
        for step in (0, 1, 2, 4)
    ]
    plain = summarise(rows, [PREDICTION, "ridge"])["atoms"]
    assert plain["methods"][PREDICTION]["learned"] is None
    numbers = summarise(rows, [PREDICTION, "ridge"], 2)["atoms"]
    for method, l1 in ((PREDICTION, 0.1), ("ridge", 0.2)):
        found = numbers["methods"][method]["learned"]
        assert (found["step"], found["l1"]) == (2, pytest.approx(l1 + 0.02))
    assert numbers["against"]["ridge"]["learned"]["wins"] == 2
    assert "After 2 learned steps on example pairs it stands at L1 0.120." in numbers["sentences"]
    assert ends(4, 2) == (("before", 0), ("learned", 2), ("after", 4))
    assert ends(4) == ends(4, 4) == (("before", 0), ("after", 4))
    assert ends(0, 2) == (("before", 0),)


def test_seeds_of_a_concept_count_once() -> None:
    about = {**ABOUT, "step": 0}
    rows = [
        {**about, "concept_id": c, "method": m, "seed": seed, "l1": l1}
        for c, m, seed, l1 in (
            ("a", PREDICTION, 0, 0.1),
            ("a", PREDICTION, 1, 0.3),
            ("b", PREDICTION, 0, 0.5),
            ("a", "ridge", 0, 0.4),
        )
    ]
    numbers = summarise(rows, [PREDICTION, "ridge"])["atoms"]
    assert numbers["methods"][PREDICTION]["before"]["l1"] == pytest.approx((0.2 + 0.5) / 2)
    against = numbers["against"]["ridge"]["before"]
    assert (against["total"], against["mean"]) == (1, pytest.approx(-0.2))


scores = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 64).map(lambda k: k / 64))


@settings(max_examples=30, deadline=None)
@given(scores, scores)
def test_comparing_the_other_way_round_turns_every_number(ours: dict, theirs: dict) -> None:
    forth, back = compare(ours, theirs), compare(theirs, ours)
    if forth is None or back is None:
        assert forth is back is None and not ours.keys() & theirs.keys()
        return
    assert forth["total"] == len(ours.keys() & theirs.keys())
    assert (forth["wins"], forth["losses"]) == (back["losses"], back["wins"])
    assert forth["mean"] == pytest.approx(-back["mean"])
    turned = {"better": "worse", "worse": "better"}
    assert back["verdict"] == turned.get(forth["verdict"], forth["verdict"])
    if forth["lo"] is not None:
        assert forth["lo"] <= forth["mean"] + 1e-12 and forth["mean"] <= forth["hi"] + 1e-12
        assert (forth["lo"], forth["hi"]) == (
            pytest.approx(-back["hi"]),
            pytest.approx(-back["lo"]),
        )
