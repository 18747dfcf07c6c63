"""The HTTP interface of `serve`: routes, limits and error texts. No Ray and no torch in here.

Nothing that a client sends is opened as a path or a URL, and no error text repeats its input.
"""

# No `from __future__ import annotations`: FastAPI could not resolve the models below, which are
# local to `make_app` because their limits are the service's.

import asyncio
import io
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from PIL import Image, UnidentifiedImageError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from modeling.editors.avatars import portrait, render
from modeling.images import ImageError, decode_image, encode_jpeg, encode_png
from pipelines.serve import finetune_request
from pipelines.serve.adapter_ids import (
    FINETUNED,
    PREDICTED,
    Ask,
    OtherModelError,
    UnknownAdapterError,
    name_of,
    parse,
)
from pipelines.serve.finetune_request import BusyError, FinetuneError
from pipelines.serve.http import RETRY, Admission, BodyLimit, Counting, Counts, KeyCheck

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
OCTETS, ZIP = "application/octet-stream", "application/zip"
PNG, JPEG = "image/png", "image/jpeg"
# Formats whose decoders are in wide use; Pillow knows others that start external programs
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
# Room for the other form fields and the multipart boundaries
FORM_BYTES = 64_000
READY_SECONDS = 5.0
PAGE = Path(__file__).parent / "page.html"
Responses = dict[int | str, dict[str, Any]]


def _words(text: str) -> str:
    """Without the space around it; pydantic leaves what only Python sees as space, such as U+001C,
    and a text encoder would be left with nothing."""
    text = text.strip()
    if not text:
        raise ValueError("it says nothing")
    return text


Words = Annotated[str, AfterValidator(_words)]


@dataclass(frozen=True)
class Limits:
    """What a request may hold. `size` is the side of the pictures that the translator edits."""

    max_text: int
    max_image_bytes: int
    max_pixels: int
    size: int
    t_min: int
    t_max: int
    t: int
    """The run's own."""
    steps: int
    """The run's own."""
    max_steps: int
    max_pairs: int
    max_train_steps: int
    train_steps: int
    """The run's own fine-tune."""
    max_upload_bytes: int
    """Of all pictures of a fine-tune."""
    editors: tuple[str, ...]
    avatars: bool
    """Whether the run's pictures are drawn portraits."""
    max_ongoing: int
    """Requests at work."""
    max_queued: int
    """Requests that wait; further ones get 503."""


class Files(Protocol):
    """An adapter in PEFT's format, and what it belongs to (pipelines.serve.parts.AdapterFiles)."""

    @property
    def weights(self) -> bytes: ...
    @property
    def config(self) -> bytes: ...
    @property
    def layout(self) -> str: ...
    @property
    def base(self) -> str: ...
    @property
    def name(self) -> str: ...


class Backend(Protocol):
    """What the routes need, wherever it runs.

    Names of adapters: pipelines/serve/adapter_ids.py. Methods raise UnknownAdapterError,
    OtherModelError, FinetuneError and BusyError.
    """

    async def about(self) -> Mapping[str, Any]:
        """What is being served."""

    async def files(self, name: str) -> Files: ...

    async def translate(self, picture: np.ndarray, name: str) -> tuple[np.ndarray, str]:
        """Edited uint8 [S, S, 3], and the adapter's full name."""

    async def nearest(self, text: str, count: int) -> Sequence[tuple[str, str, float]]:
        """concept_id, text and cosine of the nearest training concepts."""

    async def submit(
        self,
        job: str,
        request: finetune_request.Request,
        pairs: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """job: a new name, 16 hexadecimal digits."""

    async def status(self, job: str) -> dict[str, Any]: ...

    async def cancel(self, job: str) -> dict[str, Any]: ...


def make_app(limits: Limits, backend: Backend, keys: Sequence[str] = (), copy: str = "") -> FastAPI:
    """The FastAPI application.

    keys: SHA-256 of those that are let in, all are if there are none. copy: names this process in
    the metrics.
    """
    app = FastAPI(
        title="denoised-weights",
        version=_version(),
        description="Text → LoRA adapter of an image-to-image GAN; text + image → edited image.",
        responses={
            400: _error("The body cannot be read"),
            401: _error("A key is needed"),
        },
    )
    counts = Counts(copy)
    # the last added sees a request first
    app.add_middleware(BodyLimit, limit=lambda path: _body_limit(path, limits))
    app.add_middleware(Admission, ongoing=limits.max_ongoing, queued=limits.max_queued)
    app.add_middleware(KeyCheck, keys=keys)
    app.add_middleware(Counting, counts=counts)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind, status in (
        (UnknownAdapterError, 404),
        (OtherModelError, 409),
        (FinetuneError, 422),
        (BusyError, 503),
    ):
        app.add_exception_handler(kind, _told(status))
    app.add_exception_handler(Exception, _failed)

    class Prediction(BaseModel):
        model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

        seed: int = Field(0, ge=0, lt=2**63, description="Of the noise that is denoised.")
        t: int = Field(
            limits.t,
            ge=limits.t_min,
            le=limits.t_max,
            description="Time step of the recovery; the run's own if left out.",
        )
        steps: int = Field(
            limits.steps,
            ge=1,
            le=limits.max_steps,
            description="1 = direct recovery, more = DDIM from t.",
        )

        @model_validator(mode="after")
        def _enough_time_steps(self) -> "Prediction":
            if self.steps > self.t + 1:
                raise ValueError("steps: there are only t + 1 time steps")
            return self

        def of(self, concept: str) -> Ask:
            return Ask(concept, self.seed, self.t, self.steps)

    class Concept(Prediction):
        concept: Words = Field(
            min_length=1,
            max_length=limits.max_text,
            description="What the edit is to do, in words.",
            examples=["green hair"],
        )

    class Translate(Prediction):
        image: UploadFile = Field(
            description=f"PNG, JPEG or WebP of at most {limits.max_image_bytes} bytes."
        )
        concept: Words | None = Field(None, min_length=1, max_length=limits.max_text)
        adapter: str | None = Field(
            None,
            min_length=2,
            max_length=8 * limits.max_text + 200,
            description="X-Adapter-Id of an earlier answer, instead of a concept.",
        )

    class Finetune(Prediction):
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

    @app.get("/", summary="A page to try it on", response_class=FileResponse)
    async def page() -> FileResponse:
        return FileResponse(PAGE, media_type="text/html")

    @app.get("/v1", summary="What there is")
    async def index() -> dict[str, Any]:
        return {
            "service": "denoised-weights",
            "version": app.version,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "size": limits.size,
            "avatars": limits.avatars,
            "editors": limits.editors,
            "endpoints": [
                f"{method} {getattr(route, 'path', '')}"
                for route in app.routes
                for method in sorted(getattr(route, "methods", None) or ())
                if getattr(route, "path", "").startswith("/v1/")
            ],
        }

    @app.get("/healthz", summary="Does this process answer?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/readyz",
        summary="Are the models up, and which ones are they?",
        responses={503: _error("They do not answer")},
    )
    async def readyz() -> dict[str, Any]:
        try:
            about = await asyncio.wait_for(backend.about(), READY_SECONDS)
        except Exception as error:
            raise HTTPException(503, "the models do not answer", RETRY) from error
        return {"status": "ok", "version": app.version, **about}

    @app.get(
        "/metrics",
        summary="Requests and their seconds, for Prometheus",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return PlainTextResponse(counts.text(), media_type="text/plain; version=0.0.4")

    def adapter_reply(made: Files, request: Request, format: str | None, begun: float) -> Response:
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

    adapter_responses: Responses = {
        200: {
            "description": f"{WEIGHTS_FILE}, or a zip that PeftModel.from_pretrained loads once"
            " unpacked",
            "content": {kind: {"schema": _BINARY} for kind in (OCTETS, ZIP)},
        },
        503: _error("Too busy, or being updated: come again after Retry-After seconds"),
    }
    Format = Annotated[
        Literal["safetensors", "zip"] | None,
        Query(description="safetensors if left out, unless Accept: application/zip"),
    ]

    @app.post(
        "/v1/adapters",
        summary="Text → LoRA adapter",
        response_class=Response,
        responses={**adapter_responses, 413: _error("The request is too large")},
    )
    async def adapters(ask: Concept, request: Request, format: Format = None) -> Response:
        begun = time.perf_counter()
        made = await _current(backend.files(name_of(ask.of(ask.concept), "")))
        reply = adapter_reply(made, request, format, begun)
        reply.headers["X-Concept"] = quote(ask.concept, safe=" ")
        return reply

    adapter_gone: Responses = {
        404: _error("No adapter has this name"),
        409: _error("It is of another model than the one that is served"),
    }

    @app.get(
        "/v1/adapters/{name}",
        summary="An adapter again by its name, such as that of a finished fine-tune",
        response_class=Response,
        responses={**adapter_responses, **adapter_gone},
    )
    async def adapter(
        name: Annotated[str, InPath(max_length=8 * limits.max_text + 200)],
        request: Request,
        format: Format = None,
    ) -> Response:
        begun = time.perf_counter()
        made = await backend.files(_known(name, limits))
        return adapter_reply(made, request, format, begun)

    @app.post(
        "/v1/translate",
        summary="Image + text or adapter → edited image",
        description=f"The image's central square is resized to {limits.size}×{limits.size} pixels,"
        " the size that the translator was trained at, and edited.",
        response_class=Response,
        responses={
            200: {
                "description": f"The edited picture, {limits.size}×{limits.size}",
                "content": {kind: {"schema": _BINARY} for kind in (PNG, JPEG)},
            },
            413: _error("The image is too large"),
            415: _error("Not a PNG, JPEG or WebP image"),
            503: _error("Too busy, or being updated: come again after Retry-After seconds"),
            **adapter_gone,
        },
    )
    async def translate(
        form: Annotated[Translate, Form(media_type="multipart/form-data")],
        request: Request,
        format: Annotated[
            Literal["png", "jpeg"] | None,
            Query(description="png if left out, unless Accept asks for image/jpeg alone"),
        ] = None,
    ) -> Response:
        if (form.concept is None) == (form.adapter is None):
            raise _wrong("concept", "give either concept or adapter")
        picture = await _picture(form.image, limits)
        if form.adapter is not None:
            edited, name = await backend.translate(picture, _known(form.adapter, limits))
        else:
            ask = form.of(form.concept or "")
            edited, name = await _current(backend.translate(picture, name_of(ask, "")))
        accept = request.headers.get("accept", "")
        jpeg = format == "jpeg" or (format is None and JPEG in accept and PNG not in accept)
        data = await asyncio.to_thread(encode_jpeg if jpeg else encode_png, edited)
        return Response(data, media_type=JPEG if jpeg else PNG, headers={"X-Adapter-Id": name})

    @app.post(
        "/v1/finetunes",
        summary="Start a fine-tune on pairs, or on an editor's edits",
        status_code=202,
        responses={
            413: _error("The pictures are too large"),
            415: _error("Not a PNG, JPEG or WebP image"),
            503: _error("Too many wait: come again after Retry-After seconds"),
        },
    )
    async def start_finetune(
        form: Annotated[Finetune, Form(media_type="multipart/form-data")],
    ) -> JSONResponse:
        if len(form.sources) != len(form.edits):
            raise _wrong("edits", "sources and edits must be equally many")
        if bool(form.editor) == bool(form.sources):
            raise _wrong("editor", "give either editor, or sources and edits")
        ask = form.of(form.concept)
        wanted = finetune_request.Request(
            **vars(ask), train_steps=form.train_steps, editor=form.editor, images=form.images
        )
        pairs = []
        for files in zip(form.sources, form.edits, strict=True):
            source, edit = [await _picture(file, limits) for file in files]
            pairs.append((source, edit))
        job = uuid.uuid4().hex[:16]
        await _current(backend.submit(job, wanted, pairs))
        told = await backend.status(job)
        return JSONResponse(told, 202, {"Location": f"/v1/finetunes/{job}"})

    Job = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
    no_job: Responses = {404: _error("There is no such fine-tune")}

    @app.get(
        "/v1/finetunes/{job}",
        summary="How far a fine-tune is; its adapter's name once it has finished",
        responses={**no_job},
    )
    async def finetune(job: Job) -> dict[str, Any]:
        return await backend.status(job)

    @app.delete(
        "/v1/finetunes/{job}",
        summary="Stop a fine-tune",
        description="One that has ended stays as it is.",
        responses={**no_job},
    )
    async def stop_finetune(job: Job) -> dict[str, Any]:
        return await backend.cancel(job)

    @app.get(
        "/v1/concepts/nearest",
        summary="Concepts that the weight generator has learned from, the nearest first",
    )
    async def nearest(
        text: Annotated[Words, Query(min_length=1, max_length=limits.max_text, pattern=r"\S")],
        count: Annotated[int, Query(ge=1, le=50)] = 5,
    ) -> dict[str, Any]:
        found = await backend.nearest(text, count)
        return {
            "concepts": [
                {"concept_id": i, "text": t, "similarity": round(s, 4)} for i, t, s in found
            ]
        }

    if limits.avatars:

        @app.get(
            "/v1/avatars/{number}",
            summary="A drawn portrait to try the translator on",
            response_class=Response,
            responses={200: {"content": {PNG: {"schema": _BINARY}}}},
        )
        async def avatar(number: Annotated[int, InPath(ge=0, le=10**6)]) -> Response:
            drawn = await asyncio.to_thread(render, portrait(number), limits.size)
            return Response(encode_png(drawn), media_type=PNG)

    return app


async def _current(answer: Any) -> Any:
    """Await what a concept asked for: that its parts are of two models is nobody's mistake."""
    try:
        return await answer
    except OtherModelError as error:
        raise HTTPException(503, "the service is being updated", RETRY) from error


def _known(name: str, limits: Limits) -> str:
    """A name from a client, if it can be one; what it holds must keep to the limits, too."""
    if name.startswith(PREDICTED):
        ask, _ = parse(name)
        if (
            not 1 <= len(ask.concept.strip()) <= limits.max_text
            or not 0 <= ask.seed < 2**63
            or not limits.t_min <= ask.t <= limits.t_max
            or not 1 <= ask.steps <= min(limits.max_steps, ask.t + 1)
        ):
            raise UnknownAdapterError("no adapter has this name")
    elif not name.startswith(FINETUNED):
        raise UnknownAdapterError("no adapter has this name")
    return name


def zip_adapter(files: Files) -> bytes:
    """A zip of the two files of a PEFT adapter folder; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: weights hardly compress
        for name, data in ((CONFIG_FILE, files.config), (WEIGHTS_FILE, files.weights)):
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


async def _picture(file: UploadFile, limits: Limits) -> np.ndarray:
    """uint8 [size, size, 3]; HTTPException if it is too large or no image."""
    data = await file.read(limits.max_image_bytes + 1)
    picture: np.ndarray = await asyncio.to_thread(_decode, data, limits)
    return picture


def _decode(data: bytes, limits: Limits) -> np.ndarray:
    if len(data) > limits.max_image_bytes:
        raise HTTPException(413, f"the image is over {limits.max_image_bytes} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            width, height = opened.size  # from the header: nothing is decoded yet
    except UnidentifiedImageError as error:
        raise HTTPException(415, f"not an image of type {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt input
        raise _wrong("image", "the image is damaged") from error
    if width * height > limits.max_pixels:
        raise _wrong("image", f"{width} × {height} pixels: over {limits.max_pixels}")
    try:
        return decode_image(data, limits.size)
    except ImageError as error:
        raise _wrong("image", "the image is damaged") from error


def _wrong(field: str, message: str) -> HTTPException:
    """422 in the form of FastAPI's own."""
    return HTTPException(422, _detail(field, message))


def _detail(field: str, message: str) -> list[dict[str, Any]]:
    return [{"loc": ["body", field], "msg": message, "type": "value_error"}]


def _body_limit(path: str, limits: Limits) -> int:
    many = path.startswith("/v1/finetunes")
    return (limits.max_upload_bytes if many else limits.max_image_bytes) + FORM_BYTES


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """422 in FastAPI's form, without the input: it may be long, or no valid Unicode."""
    assert isinstance(error, RequestValidationError)  # what it is registered for
    detail = [
        {
            "loc": [_printable(part) for part in e["loc"]],
            "msg": _printable(e["msg"]),
            "type": e["type"],
        }
        for e in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


def _told(status: int) -> Any:
    """A handler that passes on an error's own text, which is written for the client."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        # an error that came through Ray is of a type made of two; its text is a traceback
        cause = getattr(error, "cause", None) or error
        detail: Any = _detail("editor", str(cause)) if status == 422 else str(cause)
        return JSONResponse({"detail": detail}, status, RETRY if status == 503 else None)

    return handler


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the service failed; its log says why"}, 500)


def _printable(part: object) -> str | int:
    return part if isinstance(part, int) else str(part)[:200].encode("utf-8", "replace").decode()


def _version() -> str:
    try:
        return version("denoised-weights")
    except PackageNotFoundError:  # uploaded to a cluster as a working directory
        return "unknown"


_BINARY = {"type": "string", "format": "binary"}


def _error(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"detail": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
