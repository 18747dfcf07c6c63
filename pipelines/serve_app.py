"""The HTTP interface of `serve`: routes, limits and error texts. No Ray and no torch in here.

Nothing that a client sends is opened as a path or a URL, and no error text repeats its input.
"""

# No `from __future__ import annotations`: FastAPI could not resolve the models below, which are
# local to `make_app` because their limits are the service's.

import asyncio
import io
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modeling.images import ImageError, decode_image, encode_png

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
OCTETS, ZIP, PNG = "application/octet-stream", "application/zip", "image/png"
# Formats whose decoders are in wide use; Pillow knows others that start external programs
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
# Room for the other form fields and the multipart boundaries
FORM_BYTES = 64_000
HEALTH_SECONDS = 5.0

Call = Callable[..., Awaitable[Any]]
"""(method, *arguments) → what `pipelines.serve.Service` returns for them."""


@dataclass(frozen=True)
class Limits:
    """What a request may hold. `size` is the side of the pictures that the translator edits."""

    max_text: int
    max_image_bytes: int
    max_pixels: int
    size: int
    t_min: int
    t_max: int


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter in PEFT's format, and what it belongs to."""

    weights: bytes
    config: bytes
    layout: str
    base: str
    seconds: float


def make_app(limits: Limits, call: Call) -> FastAPI:
    """The FastAPI application; `call` reaches the model, wherever it runs."""
    app = FastAPI(
        title="denoised-weights",
        description="Text → LoRA adapter of an image-to-image GAN; text + image → edited image.",
    )
    app.add_middleware(BodyLimit, limit=limits.max_image_bytes + FORM_BYTES)
    # Starlette's type wants a handler of any Exception; it only gives ours this one
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _failed)

    class Ask(BaseModel):
        model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

        concept: str = Field(
            min_length=1,
            max_length=limits.max_text,
            description="What the edit is to do, in words.",
            examples=["green hair"],
        )
        seed: int = Field(0, ge=0, lt=2**63, description="Of the noise that is denoised.")
        t: int | None = Field(
            None,
            ge=limits.t_min,
            le=limits.t_max,
            description="Time step of the one-step recovery; the run's own if left out.",
        )

    class Translate(Ask):
        image: UploadFile = Field(
            description=f"PNG, JPEG or WebP of at most {limits.max_image_bytes} bytes."
        )

    @app.get("/", summary="What there is")
    async def index() -> dict[str, Any]:
        return {
            "service": "denoised-weights",
            "docs": "/docs",
            "openapi": "/openapi.json",
            "endpoints": ["POST /v1/adapters", "POST /v1/translate", "GET /healthz"],
        }

    @app.get("/healthz", summary="Is the model up, and which one is it?")
    async def healthz() -> dict[str, Any]:
        try:
            about = await asyncio.wait_for(call("about"), HEALTH_SECONDS)
        except Exception as error:
            raise HTTPException(503, "the model does not answer") from error
        return {"status": "ok", **about}

    @app.post(
        "/v1/adapters",
        summary="Text → LoRA adapter",
        response_class=Response,
        responses={
            200: {
                "description": f"{WEIGHTS_FILE}, or a zip that PeftModel.from_pretrained loads"
                " once unpacked",
                "content": {kind: {"schema": _BINARY} for kind in (OCTETS, ZIP)},
            },
            413: _error("The request is too large"),
        },
    )
    async def adapters(
        ask: Ask,
        request: Request,
        format: Annotated[
            Literal["safetensors", "zip"] | None,
            Query(description="safetensors if left out, unless Accept: application/zip"),
        ] = None,
    ) -> Response:
        made: AdapterFiles = await call("adapter", ask.concept, ask.seed, ask.t)
        zipped = format == "zip" or (format is None and ZIP in request.headers.get("accept", ""))
        name = "adapter.zip" if zipped else WEIGHTS_FILE
        return Response(
            zip_adapter(made) if zipped else made.weights,
            media_type=ZIP if zipped else OCTETS,
            headers={
                "X-Concept": quote(ask.concept, safe=" "),
                "X-Layout-Digest": made.layout,
                "X-Base-Digest": made.base,
                "X-Seconds": f"{made.seconds:.4f}",
                "Content-Disposition": f'attachment; filename="{name}"',
            },
        )

    @app.post(
        "/v1/translate",
        summary="Text + image → edited image",
        description=f"The image's central square is resized to {limits.size}×{limits.size} pixels,"
        " the size that the translator was trained at, and edited.",
        response_class=Response,
        responses={
            200: {
                "description": f"The edited picture, {limits.size}×{limits.size}",
                "content": {PNG: {"schema": _BINARY}},
            },
            413: _error("The image is too large"),
            415: _error("Not a PNG, JPEG or WebP image"),
        },
    )
    async def translate(
        form: Annotated[Translate, Form(media_type="multipart/form-data")],
    ) -> Response:
        data = await form.image.read()
        picture = await asyncio.to_thread(_decode, data, limits)
        edited = await call("translate", picture, form.concept, form.seed, form.t)
        return Response(await asyncio.to_thread(encode_png, edited), media_type=PNG)

    return app


def zip_adapter(files: AdapterFiles) -> bytes:
    """A zip of the two files of a PEFT adapter folder; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: weights hardly compress
        for name, data in ((CONFIG_FILE, files.config), (WEIGHTS_FILE, files.weights)):
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _decode(data: bytes, limits: Limits) -> Any:
    """Image bytes → uint8 [size, size, 3]; HTTPException if they are too many or no image."""
    if len(data) > limits.max_image_bytes:
        raise HTTPException(413, f"the image is over {limits.max_image_bytes} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            width, height = opened.size  # from the header: nothing is decoded yet
    except UnidentifiedImageError as error:
        raise HTTPException(415, f"not an image of type {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt input
        raise HTTPException(422, "the image is damaged") from error
    if width * height > limits.max_pixels:
        raise HTTPException(422, f"{width} × {height} pixels: over {limits.max_pixels}")
    try:
        return decode_image(data, limits.size)
    except ImageError as error:
        raise HTTPException(422, "the image is damaged") from error


class BodyLimit:
    """ASGI middleware: takes in the whole body first, and answers 413 if it is over the limit."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            # what is over the limit is read and dropped: a client that is still sending would
            # see its connection reset instead of the answer
            if size <= self.limit:
                parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        if size > self.limit:
            text = f"the request is over {self.limit} bytes"
            await JSONResponse({"detail": text}, 413)(scope, receive, send)
            return
        body: list[Message] = [
            {"type": "http.request", "body": b"".join(parts), "more_body": False}
        ]

        async def replay() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, replay, send)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """422 in FastAPI's form, without the input: it may be long, or no valid Unicode."""
    detail = [
        {
            "loc": [_printable(part) for part in e["loc"]],
            "msg": _printable(e["msg"]),
            "type": e["type"],
        }
        for e in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the service failed; its log says why"}, 500)


def _printable(part: object) -> str | int:
    return part if isinstance(part, int) else str(part)[:200].encode("utf-8", "replace").decode()


_BINARY = {"type": "string", "format": "binary"}


def _error(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"detail": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
