"""Image + text or adapter → edited image."""

# No `from __future__ import annotations`: FastAPI could not resolve a form that is local to
# `make_router` (see pipelines/serve/routes/fields.py).

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile
from pydantic import Field

from modeling.images import encode_jpeg, encode_png
from pipelines.serve.errors import ADAPTER_GONE, BUSY, current, described, wrong
from pipelines.serve.interface import Limits
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
from pipelines.serve.uploads import read_picture
from pipelines.use.adapter_names import name_of

PNG, JPEG = "image/png", "image/jpeg"
Format = Annotated[
    Literal["png", "jpeg"] | None,
    Query(description="png if left out, unless Accept asks for image/jpeg alone"),
]


def make_router(limits: Limits) -> APIRouter:
    router = APIRouter()

    class Translate(Prediction):
        t: int = time_step(limits)
        steps: int = sampling_steps(limits)
        image: UploadFile = Field(
            description=f"PNG, JPEG or WebP of at most {limits.max_image_bytes} bytes."
        )
        concept: Words | None = Field(None, min_length=1, max_length=limits.max_text)
        adapter: str | None = Field(
            None,
            min_length=2,
            max_length=longest_name(limits),
            description="X-Adapter-Id of an earlier answer, instead of a concept.",
        )

    @router.post(
        "/v1/translate",
        summary="Image + text or adapter → edited image",
        description=f"The image's central square is resized to {limits.size}×{limits.size} pixels,"
        " the size that the translator was trained at, and edited.",
        response_class=Response,
        responses={
            200: {
                "description": f"The edited picture, {limits.size}×{limits.size}",
                "content": {kind: {"schema": BINARY} for kind in (PNG, JPEG)},
            },
            413: described("The image is too large"),
            415: described("Not a PNG, JPEG or WebP image"),
            503: BUSY,
            **ADAPTER_GONE,
        },
    )
    async def translate(
        form: Annotated[Translate, Form(media_type="multipart/form-data")],
        request: Request,
        allowed: StateLimits,
        backend: StateBackend,
        format: Format = None,
    ) -> Response:
        if (form.concept is None) == (form.adapter is None):
            raise wrong("concept", "give either concept or adapter")
        picture = await read_picture(form.image, allowed)
        if form.adapter is not None:
            edited, name = await backend.translate(picture, known(form.adapter, allowed))
        else:
            ask = form.of(form.concept or "")
            edited, name = await current(backend.translate(picture, name_of(ask, "")))
        accept = request.headers.get("accept", "")
        jpeg = format == "jpeg" or (format is None and JPEG in accept and PNG not in accept)
        data = await asyncio.to_thread(encode_jpeg if jpeg else encode_png, edited)
        return Response(data, media_type=JPEG if jpeg else PNG, headers={"X-Adapter-Id": name})

    return router
