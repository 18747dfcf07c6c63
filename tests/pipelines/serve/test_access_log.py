"""A line a request, and a name for each."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.access_log import opened
from pipelines.serve.api_keys import Keys, hashed
from pipelines.serve.app import make_app
from tests.pipelines.serve.fake import LIMITS, SMALL, Fake, OneRun, encoded

KEY = "the key of one client"


def test_what_is_in_a_line_and_what_is_not() -> None:
    log = io.StringIO()
    app = make_app(LIMITS, OneRun(Fake()), Keys([hashed(KEY)]), access_log=log)
    client = TestClient(app, raise_server_exceptions=False, headers={"X-API-Key": KEY})
    image = {"image": ("secret.png", encoded(SMALL, "PNG"))}
    client.post("/v1/translate", data={"concept": "secret hair"}, files=image)
    failed = client.post("/v1/adapters", json={"concept": "boom"})
    client.get("/v1/nothing/secret?text=secret")
    client.get("/v1/concepts", headers={"X-API-Key": "not mine"})
    text = log.getvalue()
    assert "secret" not in text and KEY not in text and hashed(KEY) not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(x["method"], x["route"], x["status"]) for x in lines] == [
        ("POST", "/v1/translate", 200),
        ("POST", "/v1/adapters", 500),
        ("GET", "none", 404),
        ("GET", "/v1/concepts", 401),
    ]
    assert [x["client"] for x in lines] == [*[hashed(KEY)[:8]] * 3, ""]
    assert all(x["seconds"] >= 0 and x["bytes"] >= 0 and x["time"].endswith("Z") for x in lines)
    assert len({x["id"] for x in lines}) == 4
    # which a client can tell those who run it
    assert failed.headers["x-request-id"] == lines[1]["id"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("job-7.b_2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)],
)
def test_a_request_has_a_name(client: TestClient, given: str, kept: bool) -> None:
    reply = client.get("/healthz", headers={"X-Request-Id": given})
    name = reply.headers["x-request-id"]
    assert name == given if kept else re.fullmatch("[0-9a-f]{32}", name)
    # those that are refused have one, too
    assert client.get("/v1/nothing").headers["x-request-id"]


def test_where_it_goes(tmp_path: Path) -> None:
    assert opened("") is None
    file = tmp_path / "log"
    for text in ("one\n", "two\n"):
        to = opened(str(file))
        assert to is not None
        to.write(text)
        to.close()
    assert file.read_text() == "one\ntwo\n"
    with pytest.raises(OSError):
        opened(str(tmp_path / "no" / "folder"))
