"""Text → adapter: bad JSON, the two forms of the answer, and what a client has already."""

from __future__ import annotations

import io
import zipfile

import httpx
import pytest
from fastapi.testclient import TestClient

from pipelines.use.adapter_names import Ask, name_of
from tests.pipelines.serve.fake import LIMITS


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


NAME = name_of(Ask("a", 0, LIMITS.t, 1), "")


def test_an_adapter_that_the_client_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get(f"/v1/adapters/{NAME}")
    tag = first.headers["etag"]
    assert first.status_code == 200 and tag.startswith('"')
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(f"/v1/adapters/{NAME}", headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b""), given
        assert again.headers["etag"] == tag
        assert again.headers["x-adapter-id"] == NAME
        assert "content-type" not in again.headers and "content-length" not in again.headers
    for given in ("", '"other"', tag.strip('"'), tag[:-2] + '"', 'W/"*"'):
        again = client.get(f"/v1/adapters/{NAME}", headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (200, b"weights"), given


def test_the_two_forms_have_two_tags(client: TestClient) -> None:
    tags = {
        client.get(f"/v1/adapters/{NAME}?format={f}").headers["etag"]
        for f in ("safetensors", "zip")
    }
    assert len(tags) == 2
    (zipped,) = tags - {client.get(f"/v1/adapters/{NAME}").headers["etag"]}
    mixed = client.get(f"/v1/adapters/{NAME}", headers={"If-None-Match": zipped})
    assert mixed.status_code == 200


def test_head_says_the_tag_and_an_unknown_name_stays_unknown(client: TestClient) -> None:
    tag = client.get(f"/v1/adapters/{NAME}").headers["etag"]
    assert client.head(f"/v1/adapters/{NAME}").headers["etag"] == tag
    assert client.get("/v1/adapters/x-1", headers={"If-None-Match": "*"}).status_code == 404


def coding(reply: httpx.Response) -> str:
    return reply.headers.get("content-encoding", "")


def test_text_is_compressed_and_weights_are_not(client: TestClient) -> None:
    """For a client that takes it; short answers are not worth it."""
    plain = client.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    packed = client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert (coding(plain), coding(packed)) == ("", "gzip")
    assert packed.json() == plain.json()
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert "accept-encoding" in packed.headers["vary"].lower()
    assert coding(client.get("/healthz", headers={"Accept-Encoding": "gzip"})) == ""
    weights = client.get(f"/v1/adapters/{NAME}", headers={"Accept-Encoding": "gzip"})
    assert coding(weights) == ""
