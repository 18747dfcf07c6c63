"""Fine-tunes: from where the pairs come, and where to ask how far one is."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.pipelines.serve.fake import SMALL, encoded

PICTURES = [
    (kind, (f"{i}.png", encoded(SMALL, "PNG"))) for kind in ("sources", "edits") for i in (0, 1)
]


def test_one_that_is_taken_in_says_where_it_is(client: TestClient) -> None:
    fields = {"concept": "a", "train_steps": 3}
    reply = client.post("/v1/finetunes", data=fields, files=PICTURES)
    assert reply.status_code == 202, reply.text
    told = client.get(reply.headers["location"])
    assert told.json() == reply.json() and reply.headers["location"].endswith(told.json()["id"])
    assert client.delete(reply.headers["location"]).status_code == 200


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "b"), (None, None)])
def test_one_that_is_sent_again_under_its_name_is_the_same(
    client: TestClient, first: str | None, second: str | None
) -> None:
    ids = []
    for key in (first, second):
        headers = {"Idempotency-Key": key} if key else {}
        fields = {"concept": "a", "editor": "avatar"}
        reply = client.post("/v1/finetunes", data=fields, headers=headers)
        ids.append(reply.json()["id"])
    assert (ids[0] == ids[1]) == (first is not None and first == second)


@pytest.mark.parametrize(
    ("more", "files"),
    [
        ({}, PICTURES[:-1]),
        ({"editor": "avatar"}, PICTURES),
        ({}, []),
        ({"editor": "no such"}, []),
    ],
    ids=["uneven", "editor and pairs", "neither", "unknown editor"],
)
def test_pairs_come_from_one_place(client: TestClient, more: dict[str, str], files: Any) -> None:
    reply = client.post("/v1/finetunes", data={"concept": "a", **more}, files=files)
    assert reply.status_code == 422 and reply.json()["detail"]
