"""Image + text or adapter → edited image."""

# No `from __future__ import annotations`: FastAPI could not resolve a form that is local to
# `make_router` (see pipelines/serve/routes/fields.py).

import asyncio
import json
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile
from pydantic import Field

from modeling.images import encode_like
from pipelines.serve.errors import ADAPTER_GONE, BUSY, current, described, wrong
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
from pipelines.serve.uploads import open_upload
from pipelines.use.adapter_names import name_of
from pipelines.use.strength import MOST, TOGETHER, checked, mix_of
from pipelines.use.wording import worded

PNG, JPEG, WEBP = "image/png", "image/jpeg", "image/webp"
KINDS = {"png": PNG, "jpeg": JPEG, "webp": WEBP}
Format = Annotated[
    Literal["png", "jpeg", "webp"] | None,
    Query(description="png if left out, unless Accept asks for image/jpeg or image/webp alone"),
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
        concepts: str | None = Field(
            None,
            max_length=TOGETHER * (limits.max_text + 20),
            description="Instead of both: JSON, several concepts with a strength each, whose"
            f" changes are added; {TOGETHER} at most.",
            examples=['[["indigo hair", 1.0], ["sepia", 0.5]]'],
        )
        strength: float = Field(
            1.0, ge=0, le=MOST, description="Of the change: 0 leaves the picture as it is."
        )

    @router.post(
        "/v1/translate",
        summary="Image + text or adapter → edited image",
        description="The picture keeps its size and its transparency. It is edited with its short"
        f" side at {limits.size} pixels, the size that the translator was trained at, and what"
        " changed is enlarged and added to it.",
        response_class=Response,
        responses={
            200: {
                "description": "The edited picture",
                "content": {kind: {"schema": BINARY} for kind in KINDS.values()},
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
        given = [form.concept, form.adapter, form.concepts]
        if sum(way is not None for way in given) != 1:
            raise wrong("concept", "give one of concept, adapter and concepts")
        opened = await open_upload(form.image, allowed)
        if form.adapter is not None:
            mix = [(known(form.adapter, allowed), form.strength)]
            edited, names = await backend.translate(opened.seen, mix)
        else:
            texts = mix_of_form(form.concept, form.concepts, form.strength, limits.max_text)
            mix = [(name_of(form.of(text), ""), strength) for text, strength in texts]
            edited, names = await current(backend.translate(opened.seen, mix))
        kind = format or _accepted(request.headers.get("accept", ""))
        data, _ = await asyncio.to_thread(encode_like, replace(opened, kind=kind.upper()), edited)
        return Response(data, media_type=KINDS[kind], headers={"X-Adapter-Id": ", ".join(names)})

    return router


def mix_of_form(
    concept: str | None, concepts: str | None, strength: float, most: int
) -> list[tuple[str, float]]:
    """Texts and strengths, of the one concept or of all; a 422 if they are wrong."""
    if concept is not None:
        return [(concept, strength)]
    try:
        found = mix_of(json.loads(concepts or ""))
        texts = [(worded(text), checked(part * strength)) for text, part in found]
    except (ValueError, RecursionError) as error:
        raise wrong("concepts", str(error) or "no JSON") from error
    if any(len(text) > most for text, _ in texts):
        raise wrong("concepts", f"a concept has at most {most} characters")
    return texts


def _accepted(accept: str) -> str:
    """The format that a client asks for without PNG; else PNG."""
    if PNG not in accept:
        for kind in ("jpeg", "webp"):
            if KINDS[kind] in accept:
                return kind
    return "png"
