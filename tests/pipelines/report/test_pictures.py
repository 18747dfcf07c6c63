"""Which pictures the report shows."""

from __future__ import annotations

from pipelines.report.pictures import chosen
from tests.pipelines.report.hand_made import concept


def test_concepts_are_chosen_evenly_whatever_their_scores() -> None:
    concepts = [concept(i, "combinations") for i in range(9)] + [concept(0, "atoms")]
    ids = [c.concept_id for c in concepts]
    assert [c.concept_id for c in chosen(concepts, ids, 3)] == [
        "combinations-0",
        "combinations-4",
        "combinations-8",
        "atoms-0",
    ]
    assert chosen(concepts, ids[1:2], 3) == [concepts[1]]
