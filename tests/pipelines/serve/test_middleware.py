"""What stands before the routes: keys, places, and an answer where there was none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from pipelines.serve.api_keys import Keys, hashed
from pipelines.serve.app import make_app
from pipelines.serve.middleware import Admission, proxy_middlewares
from tests.pipelines.serve.fake import LIMITS, Fake, OneRun


def test_a_key_is_asked_for_everywhere_but_by_probes() -> None:
    key = "a key of sixteen or more"
    guarded = TestClient(make_app(LIMITS, OneRun(Fake()), Keys([hashed(key)])))
    for path in ("/", "/healthz"):
        assert guarded.get(path).status_code == 200
    for path in ("/v1", "/metrics", "/docs", "/openapi.json", "/v1/concepts/nearest?text=a"):
        assert guarded.get(path).status_code == 401
    for headers, status in (
        ({"X-API-Key": key}, 200),
        ({"Authorization": f"Bearer {key}"}, 200),
        ({"Authorization": key}, 401),
        ({"X-API-Key": key[:-1]}, 401),
        ({"X-API-Key": hashed(key)}, 401),
    ):
        assert guarded.get("/v1", headers=headers).status_code == status
    # refused before the body is taken in, and counted all the same
    assert guarded.post("/v1/adapters", json={"concept": "boom"}).status_code == 401
    assert guarded.get("/v1/nothing/of/it").status_code == 401
    counted = guarded.get("/metrics", headers={"X-API-Key": key}).text
    for route, method in (("/v1/adapters", "POST"), ("none", "GET")):
        line = f'method="{method}",route="{route}",status="401"}} 1.0'
        assert line in counted, counted


def test_so_many_work_so_many_wait_and_probes_do_neither() -> None:
    gate = asyncio.Event()
    at_work: list[int] = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/v1/"):
            at_work.append(at_work[-1] + 1)
            try:
                await gate.wait()
            finally:
                at_work.append(at_work[-1] - 1)
        await Response("well")(scope, receive, send)

    admission = Admission(app, ongoing=3, queued=5)

    async def ask(path: str = "/v1/adapters") -> Any:
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        await admission({"type": "http", "path": path, "headers": []}, None, send)
        return told[0]["status"], dict(told[0]["headers"]).get(b"retry-after")

    async def main() -> None:
        asked = [asyncio.create_task(ask()) for _ in range(12)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in asked if task.done()]
        assert [task.result() for task in refused] == [(503, b"1")] * 4
        assert await ask("/healthz") == (200, None)
        # those that go, from work or from the queue, leave their places to others
        for task in (asked[0], asked[7]):
            task.cancel()
        await asyncio.sleep(0.01)
        asked += [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert [task.done() for task in asked[-3:]] == [False, False, True]
        gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(answer == (200, None) for answer in answers) == 8
        assert max(at_work) == 3 and at_work[-1] == 0 and admission.there == 0

    asyncio.run(main())


@pytest.mark.parametrize("answer, status", [(Response("well", 418), 418), (None, 503)])
def test_a_request_that_ends_without_an_answer_gets_503(answer: Any, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if answer:
            await answer(scope, receive, send)

    (middleware,) = proxy_middlewares()
    reply = TestClient(middleware.cls(app)).get("/v1")
    assert (reply.status_code, reply.headers.get("retry-after")) == (
        status,
        None if answer else "1",
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    asked, told = client.get(path), client.head(path)
    assert (told.status_code, told.content) == (asked.status_code, b"")
    assert told.headers["content-type"] == asked.headers["content-type"]
    if path != "/metrics":  # which has counted the one before
        assert told.headers["content-length"] == asked.headers["content-length"]


def test_head_of_what_is_only_posted_to(client: TestClient) -> None:
    assert client.head("/v1/translate").status_code == 405
    assert client.head("/v1/nothing").status_code == 404


JSON = b'{"concept": "green hair"}'


@pytest.mark.parametrize(
    ("path", "headers", "status", "message"),
    [
        ("/v1/adapters", {"content-type": "application/json"}, 200, ""),
        ("/v1/adapters", {"content-type": "application/json; charset=utf-8"}, 200, ""),
        ("/v1/adapters", {"content-type": "Application/JSON"}, 200, ""),
        ("/v1/adapters", {}, 415, "send JSON, with the header Content-Type: application/json"),
        # what `curl -d` says
        ("/v1/adapters", {"content-type": "application/x-www-form-urlencoded"}, 415, "send JSON"),
        ("/v1/adapters", {"content-type": "text/plain"}, 415, "send JSON"),
        (
            "/v1/adapters",
            {"content-type": "application/json", "content-encoding": "gzip"},
            415,
            "the body is compressed",
        ),
        ("/v1/translate", {"content-type": "application/json"}, 415, "send a form"),
        ("/v1/translate", {}, 415, "send a form"),
        ("/v1/finetunes", {"content-type": "image/png"}, 415, "send a form"),
        (
            "/v1/translate",
            {"content-type": "multipart/form-data; boundary=x", "content-encoding": "br"},
            415,
            "the body is compressed",
        ),
    ],
)
def test_a_body_of_another_kind_is_told_which_is_read(
    client: TestClient, path: str, headers: dict[str, str], status: int, message: str
) -> None:
    reply = client.post(path, content=JSON, headers=headers)
    assert reply.status_code == status, reply.text
    assert status == 200 or message in reply.json()["detail"]


def test_pages_of_the_origins_that_are_allowed_and_no_others() -> None:
    key, mine = "a key of sixteen or more", "https://my.org"
    app = make_app(LIMITS, OneRun(Fake()), Keys([hashed(key)]), origins=[mine])
    for origin, allowed in ((mine, mine), ("https://other.org", None)):
        asked = TestClient(app).get("/v1", headers={"Origin": origin})
        assert asked.status_code == 401  # and a browser may read it
        assert asked.headers.get("access-control-allow-origin") == allowed
        before = TestClient(app).options(
            "/v1/adapters",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,x-api-key",
            },
        )
        assert before.status_code == (200 if allowed else 400)  # without a key: browsers send none
        assert before.headers.get("access-control-allow-origin") == allowed
    made = TestClient(app).post(
        "/v1/adapters",
        json={"concept": "green hair"},
        headers={"Origin": mine, "X-API-Key": key},
    )
    assert "X-Adapter-Id" in made.headers["access-control-expose-headers"]


def test_no_origin_is_allowed_unless_told(client: TestClient) -> None:
    assert "access-control-allow-origin" not in client.get("/", headers={"Origin": "x"}).headers
