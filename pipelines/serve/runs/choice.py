"""Each request goes to the application of the run that it names, `?run=NAME`. ASGI middleware."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serve.interface import Runs
from pipelines.serve.middleware import path_of
from pipelines.serve.runs.served import Served, UnknownRunError

ASKED_PATHS = ("/v1", "/readyz")
"""Below these it matters what is served now; the rest is the same for all."""


class RunChoice:
    """What a request may hold differs by run, so each has an application of its own."""

    def __init__(self, app: ASGIApp, runs: Runs, make: Callable[[Served], ASGIApp]) -> None:
        self.app, self.runs, self.make = app, runs, make
        self.made: dict[Served, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = path_of(scope).startswith(ASKED_PATHS)
        table = await self.runs.now() if asked else self.runs.table
        names = parse_qs(scope["query_string"].decode("latin-1")).get("run", [""])
        try:
            served = table.of(names[-1])
        except UnknownRunError as error:
            await JSONResponse({"detail": str(error)}, 404)(scope, receive, send)
            return
        self.made = {s: app for s, app in self.made.items() if s in table.runs}
        if served not in self.made:
            self.made[served] = self.make(served)
        await self.made[served](scope, receive, send)
