"""Fine-tunes: start one, ask how far it is, stop it."""

# No `from __future__ import annotations`: FastAPI could not resolve a form that is local to
# `make_router` (see pipelines/serve/routes/fields.py).

import hashlib
import uuid
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Header, Path, UploadFile
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import Field

from pipelines.serve.errors import current, described, wrong
from pipelines.serve.routes.fields import Prediction, Words, sampling_steps, time_step
from pipelines.serve.routes.state import StateBackend, StateLimits
from pipelines.serve.runs.served import Limits
from pipelines.serve.uploads import read_picture
from pipelines.use.finetune_request import Request

Job = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
NO_JOB: dict[int | str, dict[str, Any]] = {404: described("There is no such fine-tune")}


def make_router(limits: Limits) -> APIRouter:
    router = APIRouter()

    class Finetune(Prediction):
        t: int = time_step(limits)
        steps: int = sampling_steps(limits)
        concept: Words = Field(min_length=1, max_length=limits.max_text)
        train_steps: int = Field(limits.train_steps, ge=1, le=limits.max_train_steps)
        # which editors there are is the run's to say: no static type can hold them
        editor: Literal[("", *limits.editors)] = Field(  # type: ignore[valid-type]  # see above
            "", description="Makes the pairs, if none are uploaded."
        )
        images: int = Field(
            limits.max_pairs, ge=1, le=limits.max_pairs, description="Pairs that the editor makes."
        )
        sources: list[UploadFile] = Field([], max_length=limits.max_pairs)
        edits: list[UploadFile] = Field(
            [], max_length=limits.max_pairs, description="Edits of the sources, in their order."
        )

    @router.post(
        "/v1/finetunes",
        summary="Start a fine-tune on pairs, or on an editor's edits",
        status_code=202,
        responses={
            413: described("The pictures are too large"),
            415: described("Not a PNG, JPEG or WebP image"),
            503: described("Too many wait: come again after Retry-After seconds"),
        },
    )
    async def start_finetune(
        form: Annotated[Finetune, Form(media_type="multipart/form-data")],
        request: HttpRequest,
        allowed: StateLimits,
        backend: StateBackend,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=200,
                description="A name of the client's own for this request: one that is sent again,"
                " by a proxy or a browser, starts no second fine-tune.",
            ),
        ] = None,
    ) -> JSONResponse:
        if len(form.sources) != len(form.edits):
            raise wrong("edits", "sources and edits must be equally many")
        if bool(form.editor) == bool(form.sources):
            raise wrong("editor", "give either editor, or sources and edits")
        ask = form.of(form.concept)
        wanted = Request(
            **vars(ask), train_steps=form.train_steps, editor=form.editor, images=form.images
        )
        pairs = []
        for files in zip(form.sources, form.edits, strict=True):
            source, edit = [await read_picture(file, allowed) for file in files]
            pairs.append((source, edit))
        job = job_name(idempotency_key)
        await current(backend.submit(job, wanted, pairs))
        told = await backend.status(job)
        run = request.query_params.get("run", "")
        where = f"/v1/finetunes/{job}" + (f"?run={quote(run)}" if run else "")
        return JSONResponse(told, 202, {"Location": where})

    router.get(
        "/v1/finetunes/{job}",
        summary="How far a fine-tune is; its adapter's name once it has finished",
        responses=NO_JOB,
    )(finetune)
    router.delete(
        "/v1/finetunes/{job}",
        summary="Stop a fine-tune",
        description="One that has ended stays as it is.",
        responses=NO_JOB,
    )(stop_finetune)
    return router


def job_name(key: str | None) -> str:
    """16 hexadecimal digits; the same for the same key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else uuid.uuid4().hex[:16]


async def finetune(job: Job, backend: StateBackend) -> dict[str, Any]:
    return await backend.status(job)


async def stop_finetune(job: Job, backend: StateBackend) -> dict[str, Any]:
    return await backend.cancel(job)
