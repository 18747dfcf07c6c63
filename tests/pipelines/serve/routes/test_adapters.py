"""Text → adapter: bad JSON, and the two forms of the answer."""

from __future__ import annotations

import io
import zipfile

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b"\xff\xfe",
        b'{"concept": " "}',
        b'{"concept": 5}',
        b'{"concept": "twenty-one characters"}',
        rb'{"concept": "\ud800"}',
        rb'{"concept": "a", "\ud800": 1}',
        b'{"concept": "a", "seed": -1}',
        b'{"concept": "a", "seed": 1.5}',
        b'{"concept": "a", "seed": NaN}',
        b'{"concept": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"concept": "a", "t": 9}',
        b'{"concept": "a", "t": 1000}',
        b'{"concept": "a", "image": "/etc/passwd"}',
    ],
)
def test_bad_json_is_a_4xx_with_json(client: TestClient, body: bytes) -> None:
    reply = client.post("/v1/adapters", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422) and reply.json()["detail"]


def test_zip_by_accept_header(client: TestClient) -> None:
    body = {"concept": "a"}
    asked = client.post("/v1/adapters", json=body, headers={"Accept": "application/zip"})
    assert (
        zipfile.ZipFile(io.BytesIO(asked.content)).read("adapter_model.safetensors") == b"weights"
    )
    assert client.post("/v1/adapters", json=body).content == b"weights"
    said = client.post(
        "/v1/adapters?format=safetensors", json=body, headers={"Accept": "application/zip"}
    )
    assert said.content == b"weights"
