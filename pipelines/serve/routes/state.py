"""What the routes take from the application's state (pipelines/serve/app.py puts it there)."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from pipelines.serve.interface import Backend, Limits
from pipelines.serve.middleware import Counts

# async: FastAPI would send plain functions to a thread, for each request


async def _limits(request: Request) -> Limits:
    return cast(Limits, request.app.state.limits)


async def _backend(request: Request) -> Backend:
    return cast(Backend, request.app.state.backend)


async def _counts(request: Request) -> Counts:
    return cast(Counts, request.app.state.counts)


StateLimits = Annotated[Limits, Depends(_limits)]
StateBackend = Annotated[Backend, Depends(_backend)]
StateCounts = Annotated[Counts, Depends(_counts)]
