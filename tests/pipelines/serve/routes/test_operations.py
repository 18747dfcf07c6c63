"""The index, probes, and failures of the models."""

from __future__ import annotations

from dataclasses import replace

from fastapi.testclient import TestClient

from pipelines.serve.app import make_app
from tests.pipelines.serve.fake import LIMITS, Fake, OneRun


def test_the_index_names_what_there_is(client: TestClient) -> None:
    index = client.get("/v1").json()
    assert index["endpoints"] == [
        "POST /v1/adapters",
        "GET /v1/adapters/{name}",
        "POST /v1/translate",
        "POST /v1/finetunes",
        "GET /v1/finetunes/{job}",
        "DELETE /v1/finetunes/{job}",
        "GET /v1/concepts",
        "GET /v1/concepts/nearest",
        "GET /v1/avatars/{number}",
        "GET /v1/runs",
        "POST /v1/runs/{name}",
        "DELETE /v1/runs/{name}",
    ]
    assert (index["size"], index["avatars"], index["editors"]) == (32, True, ["avatar"])
    assert client.get("/v1/avatars/3").headers["content-type"] == "image/png"
    # of photographs there are none that it could draw
    others = TestClient(make_app(LIMITS, OneRun(Fake(), replace(LIMITS, avatars=False))))
    assert "GET /v1/avatars/{number}" not in others.get("/v1").json()["endpoints"]
    assert others.get("/v1/avatars/3").status_code == 404


def test_failures_of_the_model_are_json_without_its_insides(client: TestClient) -> None:
    reply = client.post("/v1/adapters", json={"concept": "boom"})
    assert reply.status_code == 500 and "secret" not in reply.text and reply.json()["detail"]
    assert client.get("/readyz").status_code == 503  # `about` fails
