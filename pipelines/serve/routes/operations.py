"""For people and for what runs the service: the page, the index, probes, metrics."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse

from pipelines.serve.errors import described
from pipelines.serve.middleware import RETRY
from pipelines.serve.routes.state import StateBackend, StateCounts, StateLimits

PAGE = Path(__file__).parents[1] / "page.html"
READY_SECONDS = 5.0

router = APIRouter()
probes = APIRouter()
"""The same for all runs."""


@probes.get("/", summary="A page to try it on", response_class=FileResponse)
async def page() -> FileResponse:
    return FileResponse(PAGE, media_type="text/html")


@router.get("/v1", summary="What there is")
async def index(request: Request, limits: StateLimits) -> dict[str, Any]:
    return {
        "service": "denoised-weights",
        "version": request.app.version,
        "docs": "/docs",
        "openapi": "/openapi.json",
        "size": limits.size,
        "avatars": limits.avatars,
        "editors": limits.editors,
        "learned_steps": limits.learned_steps,
        "endpoints": [
            f"{method.upper()} {path}"
            for path, methods in request.app.openapi()["paths"].items()
            for method in methods
            if path.startswith("/v1/")
        ],
    }


@probes.get("/healthz", summary="Does this process answer?")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Are the models up, and which ones are they?",
    responses={503: described("They do not answer")},
)
async def readyz(request: Request, backend: StateBackend) -> dict[str, Any]:
    try:
        about = await asyncio.wait_for(backend.about(), READY_SECONDS)
    except Exception as error:
        raise HTTPException(503, "the models do not answer", RETRY) from error
    return {"status": "ok", "version": request.app.version, **about}


@probes.get(
    "/metrics",
    summary="Requests and their seconds, for Prometheus",
    response_class=PlainTextResponse,
)
async def metrics(counts: StateCounts) -> Response:
    return PlainTextResponse(counts.text(), media_type="text/plain; version=0.0.4")
