"""Text → LoRA adapter, and an adapter again by its name."""

# No `from __future__ import annotations`: FastAPI could not resolve a form that is local to
# `make_router` (see pipelines/serve/routes/fields.py).

import io
import time
import zipfile
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from pipelines.serve.errors import ADAPTER_GONE, BUSY, current, described
from pipelines.serve.routes.conditional import unless_there
from pipelines.serve.routes.fields import (
    BINARY,
    Prediction,
    Words,
    known,
    longest_name,
    sampling_steps,
    time_step,
)
from pipelines.serve.routes.state import StateBackend, StateLimits
from pipelines.serve.runs.served import Limits
from pipelines.use.adapter_names import name_of
from pipelines.use.answers import AdapterFiles

# Those of modeling/targets/lora.py, which imports torch
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
OCTETS, ZIP = "application/octet-stream", "application/zip"
Format = Annotated[
    Literal["safetensors", "zip"] | None,
    Query(description="safetensors if left out, unless Accept: application/zip"),
]
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"{WEIGHTS_FILE}, or a zip that PeftModel.from_pretrained loads once"
        " unpacked",
        "content": {kind: {"schema": BINARY} for kind in (OCTETS, ZIP)},
    },
    503: BUSY,
}


def make_router(limits: Limits) -> APIRouter:
    router = APIRouter()

    class Concept(Prediction):
        t: int = time_step(limits)
        steps: int = sampling_steps(limits)
        concept: Words = Field(
            min_length=1,
            max_length=limits.max_text,
            description="What the edit is to do, in words.",
            examples=["green hair"],
        )

    @router.post(
        "/v1/adapters",
        summary="Text → LoRA adapter",
        response_class=Response,
        responses={
            **ANSWERS,
            413: described("The request is too large"),
            415: described("Not JSON, or compressed"),
        },
    )
    async def adapters(
        ask: Concept, request: Request, backend: StateBackend, format: Format = None
    ) -> Response:
        begun = time.perf_counter()
        made = await current(backend.files(name_of(ask.of(ask.concept), "")))
        reply = _reply(made, request, format, begun)
        reply.headers["X-Concept"] = quote(ask.concept, safe=" ")
        return reply

    @router.get(
        "/v1/adapters/{name}",
        summary="An adapter again by its name, such as that of a finished fine-tune",
        response_class=Response,
        responses={
            **ANSWERS,
            304: {"description": "If-None-Match has the ETag of an earlier answer"},
            **ADAPTER_GONE,
        },
    )
    async def adapter(
        name: Annotated[str, Path(max_length=longest_name(limits))],
        request: Request,
        allowed: StateLimits,
        backend: StateBackend,
        format: Format = None,
    ) -> Response:
        begun = time.perf_counter()
        made = await backend.files(known(name, allowed))
        return unless_there(request, _reply(made, request, format, begun))

    return router


def _reply(made: AdapterFiles, request: Request, format: str | None, begun: float) -> Response:
    zipped = format == "zip" or (format is None and ZIP in request.headers.get("accept", ""))
    name = "adapter.zip" if zipped else WEIGHTS_FILE
    return Response(
        zip_adapter(made) if zipped else made.weights,
        media_type=ZIP if zipped else OCTETS,
        headers={
            "X-Adapter-Id": made.name,
            "X-Layout-Digest": made.layout,
            "X-Base-Digest": made.base,
            "X-Seconds": f"{time.perf_counter() - begun:.4f}",
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )


def zip_adapter(files: AdapterFiles) -> bytes:
    """A zip of the two files of a PEFT adapter folder; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: weights hardly compress
        for name, data in ((CONFIG_FILE, files.config), (WEIGHTS_FILE, files.weights)):
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()
