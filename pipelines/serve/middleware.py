"""What stands before the routes: limits of size and number, keys, counts. ASGI middleware."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.api_keys import Keys

CLIENT = "denoised_weights.client"
"""Key of a request's scope: the SHA-256 of the key that it came with."""
REQUEST = "denoised_weights.request"
"""Key of a request's scope: its name (pipelines/serve/access_log.py)."""
IS_ADMIN = "denoised_weights.is_admin"
"""Key of a request's scope: whether its key is an administrator's."""
OPEN_PATHS = ("/", "/healthz", "/readyz")
"""Asked for no key: probes, and the page, which asks its reader for one."""


QUEUED_PATHS = "/v1/"
RETRY = {"Retry-After": "1"}
ASK_FOR_KEY = {"WWW-Authenticate": "Bearer"}


def path_of(scope: Scope) -> str:
    """The path below the prefix that the service may be mounted at, as routes are matched."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


class Admission:
    """At most `ongoing` requests at work and `queued` that wait, first come first served; 503 else.

    Ray Serve would bound both, but sees a copy with all its places taken as one to ask again, later
    and later: at twice the places its throughput falls to a tenth. Only paths below QUEUED_PATHS
    wait, so a busy service answers its probes.
    """

    def __init__(self, app: ASGIApp, ongoing: int, queued: int) -> None:
        self.app, self.most = app, ongoing + queued
        self.places, self.there = asyncio.Semaphore(ongoing), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not path_of(scope).startswith(QUEUED_PATHS):
            await self.app(scope, receive, send)
            return
        if self.there >= self.most:
            text = "too many requests wait"
            await JSONResponse({"detail": text}, 503, RETRY)(scope, receive, send)
            return
        self.there += 1
        try:
            async with self.places:
                await self.app(scope, receive, send)
        finally:
            self.there -= 1


class Interrupted:
    """503 where a request ends without an answer, for the copy that had it died.

    In Serve's proxy, which would say 500; errors of ours have an answer by then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = scope["type"] != "http"

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        await self.app(scope, receive, noted)
        if not begun:
            text = "the service is being started again"
            await JSONResponse({"detail": text}, 503, RETRY)(scope, receive, send)


def proxy_middlewares() -> list[Middleware]:
    """For $RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH of the nodes
    (pipelines/runtime/session.py)."""
    return [Middleware(Interrupted)]


class Head:
    """HEAD is answered as GET, without the body (RFC 9110, 9.3.2): probes and proxies ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headers_alone(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, headers_alone)


JSON, FORM = "application/json", "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
"""A form without files may be."""
KINDS = {"/v1/adapters": JSON, "/v1/translate": FORM, "/v1/finetunes": FORM}
HOW = {
    JSON: "send JSON, with the header Content-Type: application/json",
    FORM: "send a form, Content-Type: multipart/form-data (curl -F)",
}


class BodyKind:
    """415 for a body that is compressed, or not of the kind that the route reads, and says which.

    The framework would call it 422, each of its fields missing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = KINDS.get(path_of(scope)) if scope["type"] == "http" else None
        if kind is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v.decode("latin-1").lower() for k, v in scope["headers"]}
        coding = headers.get(b"content-encoding", "identity").strip()
        given = headers.get(b"content-type", "").partition(";")[0].strip()
        fits = given == kind or (kind == FORM and given == URLENCODED)
        fits = fits or (kind == JSON and given.endswith("+json"))
        if coding not in ("", "identity"):
            text = "the body is compressed (Content-Encoding): send it as it is"
            # so RFC 9110 (15.5.16) has it
            reply = JSONResponse({"detail": text}, 415, {"Accept-Encoding": "identity"})
            await reply(scope, receive, send)
        elif not fits:
            await JSONResponse({"detail": HOW[kind]}, 415)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class BodyLimit:
    """Takes in the whole body first, and answers 413 if it is over the path's limit."""

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(path_of(scope))
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            # what is over the limit is read and dropped: a client that is still sending would
            # see its connection reset instead of the answer
            if size <= limit:
                parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        if size > limit:
            text = f"the request is over {limit} bytes"
            await JSONResponse({"detail": text}, 413)(scope, receive, send)
            return
        body: list[Message] = [
            {"type": "http.request", "body": b"".join(parts), "more_body": False}
        ]

        async def replay() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, replay, send)


class KeyCheck:
    """401 for requests without one of the keys, in `X-API-Key` or as `Authorization: Bearer`.

    Whose key it is stands in the request's scope (CLIENT, IS_ADMIN), whether one is needed or not.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = _key(scope)
        scope[IS_ADMIN] = bool(given) and self.keys.is_admin(given)
        who = self.keys.owner(given) if given else ""
        if self.keys and not who and path_of(scope) not in OPEN_PATHS:
            text = "a key is needed: X-API-Key, or Authorization: Bearer"
            await JSONResponse({"detail": text}, 401, ASK_FOR_KEY)(scope, receive, send)
            return
        if who:
            scope[CLIENT] = who
        await self.app(scope, receive, send)


def _key(scope: Scope) -> str:
    headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
    given: str = headers.get(b"x-api-key", "")
    scheme, _, token = headers.get(b"authorization", "").partition(" ")
    return given or (token.strip() if scheme.lower() == "bearer" else "")


class Counts:
    """Requests, their seconds and how many are worked on, for Prometheus.

    Of one copy of the HTTP part; `copy` tells them apart.
    """

    def __init__(self, copy: str = "") -> None:
        self.copy = copy
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "denoised_weights_requests",
            "Requests answered",
            ["route", "method", "status", "copy"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "denoised_weights_request_seconds",
            "Seconds from the first byte of a request to the last of its answer",
            ["route", "copy"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.ongoing = Gauge(
            "denoised_weights_requests_ongoing",
            "Requests worked on now",
            ["copy"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Counting:
    """Counts each request by its route, one of `routes`."""

    def __init__(self, app: ASGIApp, counts: Counts, routes: Sequence[BaseRoute]) -> None:
        self.app, self.counts, self.routes = app, counts, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        c, begun = self.counts, time.perf_counter()
        status = 499  # the client went away before there was an answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        c.ongoing.labels(c.copy).inc()
        try:
            await self.app(scope, receive, noted)
        except Exception:  # which is answered outside of this
            status = 500
            raise
        finally:
            route = template(scope, self.routes)
            c.ongoing.labels(c.copy).dec()
            c.requests.labels(route, scope["method"], str(status), c.copy).inc()
            c.seconds.labels(route, c.copy).observe(time.perf_counter() - begun)


def template(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """The route's path as it was declared, "none" if there is none.

    Not the request's path: those hold names, and would make a series each. A request that was
    refused on its way was not routed yet.
    """
    if "route" in scope:
        return str(getattr(scope["route"], "path", "none"))
    fitting = (r for r in routes if r.matches(scope)[0] != Match.NONE)
    return str(getattr(next(fitting, None), "path", "none"))
