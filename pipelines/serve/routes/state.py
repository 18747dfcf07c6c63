"""What the routes take from the application's state (pipelines/serve/app.py puts it there)."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from pipelines.serve.interface import Backend, Runs
from pipelines.serve.middleware import Counts
from pipelines.serve.runs.served import Limits

# async: FastAPI would send plain functions to a thread, for each request


async def _limits(request: Request) -> Limits:
    return cast(Limits, request.app.state.limits)


async def _backend(request: Request) -> Backend:
    return cast(Backend, request.app.state.backend)


async def _runs(request: Request) -> Runs:
    return cast(Runs, request.app.state.runs)


async def _counts(request: Request) -> Counts:
    return cast(Counts, request.app.state.counts)


StateLimits = Annotated[Limits, Depends(_limits)]
StateBackend = Annotated[Backend, Depends(_backend)]
StateRuns = Annotated[Runs, Depends(_runs)]
StateCounts = Annotated[Counts, Depends(_counts)]
