"""What makes a comparison unfair is refused, and said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.comparison.fairness import UnfairError, check_alike, check_unseen
from pipelines.stages.judging import Judged, digests


def row(method: str, **changes: Any) -> dict[str, Any]:
    usual = {"concept_id": "a", "n": 40, "size": 32, "features": "f", "device": "cpu"}
    return {"method": method, **usual, "judged": "d", "epochs": 20, **changes}


def test_equal_conditions_pass() -> None:
    other = row("ours", concept_id="b", judged="e")
    check_alike([row("ours"), row("theirs", epochs=200), other])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": 41}, "ours was judged at n=40, theirs at n=41"),
        ({"size": 64}, "theirs at size=64"),
        ({"features": "g"}, "theirs at features=g"),
        ({"device": "cuda"}, "theirs at device=cuda"),
        ({"judged": "other"}, "judged on different images of a"),
    ],
)
def test_unequal_conditions_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnfairError, match=says):
        check_alike([row("ours"), row("theirs", **change)])


def test_one_budget_for_all_concepts() -> None:
    with pytest.raises(UnfairError, match=r"ours was trained for \[10, 20\] epochs"):
        check_alike([row("ours"), row("ours", concept_id="b", judged="e", epochs=10)])


def test_a_judged_picture_that_was_trained_on_is_found_by_content() -> None:
    pictures = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    check_unseen(digests(pictures[:3]), digests(pictures[3:]), "a beard")
    with pytest.raises(UnfairError, match="a beard was trained on 1 of the 3 images"):
        check_unseen(digests(pictures[:3]), digests(pictures[2:]), "a beard")


def test_the_digest_knows_pictures_their_order_and_their_edits() -> None:
    pictures = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    edited = 255 - pictures
    one = Judged(list("abcd"), pictures, edited).digest
    assert Judged(list("efgh"), pictures.clone(), edited.clone()).digest == one
    assert Judged(list("abcd"), pictures.flip(0), edited).digest != one
    assert Judged(list("abcd"), pictures, edited.flip(0)).digest != one
