"""How much each client may ask: a rate, and a number a day. ASGI middleware."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serve.middleware import CLIENT, path_of

DAY = 86400.0
LIMITED_PATHS = "/v1/"
REMEMBERED = 10_000
"""Clients; of more, those that have asked for nothing for longest begin anew."""


@dataclass
class _Client:
    tokens: float
    at: float
    day: int
    today: int = 0


class Quotas:
    """What is left to each client.

    a_minute: requests a minute on average, of which `burst` may come at once; a_day: in a day
    (UTC). 0 = no bound.
    """

    def __init__(
        self, a_minute: int, burst: int, a_day: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.a_minute, self.burst, self.a_day = a_minute, burst or a_minute, a_day
        self.clock = clock
        self.clients: OrderedDict[str, _Client] = OrderedDict()

    def take(self, who: str) -> float:
        """0 if a request is allowed, which is then counted; else the seconds until one is."""
        now = self.clock()
        day = int(now // DAY)
        client = self.clients.setdefault(who, _Client(self.burst, now, day))
        self.clients.move_to_end(who)
        if len(self.clients) > REMEMBERED:
            self.clients.popitem(last=False)
        gained = max(0.0, now - client.at) * self.a_minute / 60
        client.tokens, client.at = min(float(self.burst), client.tokens + gained), now
        if client.day != day:
            client.day, client.today = day, 0
        if self.a_day and client.today >= self.a_day:
            return (day + 1) * DAY - now
        if self.a_minute and client.tokens < 1:
            return (1 - client.tokens) * 60 / self.a_minute
        client.tokens -= 1
        client.today += 1
        return 0.0


class QuotaCheck:
    """429 with Retry-After for a client that has asked for too much.

    A client is its key (pipelines/serve/middleware.py's KeyCheck), or without keys its address.
    """

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self.app, self.quotas = app, quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not path_of(scope).startswith(LIMITED_PATHS):
            await self.app(scope, receive, send)
            return
        who = scope.get(CLIENT) or (scope.get("client") or ("",))[0]
        wait = self.quotas.take(str(who))
        if not wait:
            await self.app(scope, receive, send)
            return
        text = "you have asked for as much as you may: come again after Retry-After seconds"
        headers = {"Retry-After": str(math.ceil(wait))}
        await JSONResponse({"detail": text}, 429, headers)(scope, receive, send)
