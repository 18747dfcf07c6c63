"""What requests hold, on every route that takes it: names, texts, time steps."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.use.adapter_names import Ask, UnknownAdapterError, name_of, parse
from tests.pipelines.serve.fake import LIMITS, SMALL, b64, encoded


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: "p-" + b64(b))))
def test_no_other_text_is_a_name(client: TestClient, text: str) -> None:
    try:
        wanted, digits = parse(text)
    except UnknownAdapterError:
        assume(text not in (".", ".."))  # the client takes them for steps of the path
        assert client.get(f"/v1/adapters/{quote(text, safe='')}").status_code in (404, 405, 422)
    else:
        assert name_of(wanted, digits) == text


@pytest.mark.parametrize(
    "fields",
    [
        ["x" * 21, 0, 999, 1, ""],
        ["", 0, 999, 1, ""],
        ["a", -1, 999, 1, ""],
        ["a", 2**63, 999, 1, ""],
        ["a", 0, 5, 1, ""],
        ["a", 0, 1000, 1, ""],
        ["a", 0, 999, 21, ""],
        ["a", 0, 10, 12, ""],
        ["a", 0.0, 999, 1, ""],
        ["a", True, 999, 1, ""],
        ["a", 0, 999, 1, None],
        ["a", 0, 999, 1],
        {"a": 1},
    ],
)
def test_a_forged_name_passes_no_limit(client: TestClient, fields: Any) -> None:
    name = "p-" + b64(json.dumps(fields, separators=(",", ":")).encode())
    assert client.get(f"/v1/adapters/{name}").status_code == 404
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    assert client.post("/v1/translate", data={"adapter": name}, files=image).status_code == 404


@pytest.mark.parametrize(
    "text",
    [
        *("\x1c", " \x1f\t", "\u2003", "\x85"),
        # zero-width and control characters, marks without a letter, what only looks empty
        *("\u200b", "\u200d\ufeff", "\u2060 ", "\x00", "\x07\x1b", "\u202e", "\u0301", "\ufe0f"),
        *("\u3164", "\u2800\u2800", "\u115f", "\U000e0041"),
    ],
)
def test_a_text_of_nothing_that_shows_says_nothing(client: TestClient, text: str) -> None:
    files = {"image": ("x", encoded(SMALL, "PNG"))}
    for reply in (
        client.post("/v1/adapters", json={"concept": text}),
        client.post("/v1/translate", data={"concept": text}, files=files),
        client.post("/v1/finetunes", data={"concept": text, "editor": "avatar"}),
        client.get("/v1/concepts/nearest", params={"text": text}),
    ):
        assert reply.status_code == 422, reply.text
    name = name_of(Ask(text, 0, LIMITS.t, 1), "")
    assert client.get(f"/v1/adapters/{name}").status_code == 404


@pytest.mark.parametrize("text", ["\x1c", " \x1f\t", "\u2003", "\x85"])
def test_space_around_a_text_goes(client: TestClient, text: str) -> None:
    spaced = client.get("/v1/concepts/nearest", params={"text": f"{text}blue hair{text}"})
    assert spaced.json()["concepts"][0]["text"] == "blue hair"


@pytest.mark.parametrize("text", ["?", "😀", "e\u0301", "数字", "a\u200db", "☂", "نص", "…"])
def test_a_text_of_anything_that_shows_is_one(client: TestClient, text: str) -> None:
    assert client.post("/v1/adapters", json={"concept": text}).status_code == 200


def test_more_steps_than_time_steps_are_refused_in_forms_too(client: TestClient) -> None:
    fields = {"concept": "a", "t": 10, "steps": 12}
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    for reply in (
        client.post("/v1/adapters", json=fields),
        client.post("/v1/translate", data=fields, files=image),
        client.post("/v1/finetunes", data={**fields, "editor": "avatar"}),
    ):
        assert reply.status_code == 422 and "time steps" in reply.text
