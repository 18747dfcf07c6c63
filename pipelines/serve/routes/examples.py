"""What to try the service on: concepts that it has learned from, drawn portraits."""

# No `from __future__ import annotations`: see pipelines/serve/routes/adapters.py.

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from modeling.editors.avatars import portrait, render
from modeling.images import encode_png
from pipelines.serve.routes.fields import BINARY, Words
from pipelines.serve.routes.state import StateBackend, StateLimits
from pipelines.serve.routes.translate import PNG
from pipelines.serve.runs.served import Limits


def make_router(limits: Limits) -> APIRouter:
    """Without the portraits where the run's pictures are others."""
    router = APIRouter()

    @router.get(
        "/v1/concepts",
        summary="Concepts that the weight generator has learned from, by what their texts hold",
    )
    async def containing(
        backend: StateBackend,
        contains: Annotated[
            str,
            Query(
                max_length=limits.max_text,
                description="In any case; texts that begin with it come first. All if left out.",
            ),
        ] = "",
        count: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> dict[str, Any]:
        found = await backend.containing(contains, count)
        return {"concepts": [{"concept_id": i, "text": t} for i, t in found]}

    @router.get(
        "/v1/concepts/nearest",
        summary="Concepts that the weight generator has learned from, the nearest first",
    )
    async def nearest(
        text: Annotated[Words, Query(min_length=1, max_length=limits.max_text, pattern=r"\S")],
        backend: StateBackend,
        count: Annotated[int, Query(ge=1, le=50)] = 5,
    ) -> dict[str, Any]:
        found = await backend.nearest(text, count)
        return {
            "concepts": [
                {"concept_id": i, "text": t, "similarity": round(s, 4)} for i, t, s in found
            ]
        }

    if limits.avatars:

        @router.get(
            "/v1/avatars/{number}",
            summary="A drawn portrait to try the translator on",
            response_class=Response,
            responses={200: {"content": {PNG: {"schema": BINARY}}}},
        )
        async def avatar(
            number: Annotated[int, Path(ge=0, le=10**6)], allowed: StateLimits
        ) -> Response:
            drawn = await asyncio.to_thread(render, portrait(number), allowed.size)
            return Response(encode_png(drawn), media_type=PNG)

    return router
