"""Who asked for what, a line of JSON a request; and a name for each request. ASGI middleware.

No text and no picture is in it, nor a key: of that, eight digits of its SHA-256.
"""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Sequence
from typing import TextIO

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.middleware import CLIENT, REQUEST, template

HEADER = b"x-request-id"


def opened(where: str) -> TextIO | None:
    """- = standard output, a file that is added to, or None for no log. OSError."""
    if not where:
        return None
    return sys.stdout if where == "-" else open(where, "a", buffering=1)


class AccessLog:
    """Names each request, by the client's X-Request-Id if that can be one, and answers with it."""

    def __init__(self, app: ASGIApp, to: TextIO | None, routes: Sequence[BaseRoute]) -> None:
        self.app, self.to, self.routes = app, to, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"").decode("latin-1")
        name = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
        scope[REQUEST] = name
        begun, status, size = time.perf_counter(), 499, 0

        async def named(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [h for h in message.get("headers", []) if h[0].lower() != HEADER]
                message = {**message, "headers": [*headers, (HEADER, name.encode())]}
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception:  # which is answered outside of this
            status = 500
            raise
        finally:
            if self.to is not None:
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "id": name,
                    "method": scope["method"],
                    "route": template(scope, self.routes),
                    "status": status,
                    "seconds": round(time.perf_counter() - begun, 4),
                    "bytes": size,
                    "client": scope.get(CLIENT, "")[:8],
                }
                self.to.write(json.dumps(line) + "\n")
                self.to.flush()
