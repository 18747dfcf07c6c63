"""The HTTP application of `serve`: middleware, error handlers, routers. No Ray and no torch in it.

Nothing that a client sends is opened as a path or a URL, and no error text repeats its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from pipelines.serve.access_log import AccessLog
from pipelines.serve.api_keys import Keys
from pipelines.serve.errors import add_handlers, described
from pipelines.serve.interface import Runs
from pipelines.serve.middleware import (
    Admission,
    BodyKind,
    BodyLimit,
    Counting,
    Counts,
    Head,
    KeyCheck,
)
from pipelines.serve.quotas import QuotaCheck, Quotas
from pipelines.serve.routes import adapters, examples, finetunes, operations, translate
from pipelines.serve.routes import runs as served_runs
from pipelines.serve.routes.fields import named_run
from pipelines.serve.runs.choice import RunChoice
from pipelines.serve.runs.served import Limits, Served

# Room for the other form fields and the multipart boundaries
FORM_BYTES = 64_000
NO_RUN: dict[int | str, dict[str, Any]] = {404: described("No run is served under this name")}
AS_IT_IS = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream")
"""Not compressed: pictures, archives, and weights, whose float32 hardly gets smaller."""
EXPOSED = (
    *("X-Adapter-Id", "X-Layout-Digest", "X-Base-Digest", "X-Seconds", "X-Concept"),
    *("ETag", "Location", "Retry-After", "X-Request-Id"),
)
"""Headers of ours that a page of another origin may read."""


def make_app(
    limits: Limits,
    runs: Runs,
    keys: Keys | None = None,
    copy: str = "",
    origins: Sequence[str] = (),
    quotas: Quotas | None = None,
    access_log: TextIO | None = None,
) -> FastAPI:
    """The HTTP application; behind it each run that is served has its own (`of_run`).

    limits: of these the service's own, which hold for all runs. keys: those that are let in,
    everybody is without any. copy: names this process in the metrics. origins: of other people's
    pages that may use the service from a browser. quotas: of each client. access_log: gets a line a
    request.
    """
    counts = Counts(copy)

    def make(served: Served) -> FastAPI:
        return of_run(served, runs, counts)

    app = FastAPI(openapi_url=None)  # it is the runs' own
    first = runs.table.of("")
    # FastAPI keeps a router's routes behind one without a path
    found = [*make(first).routes, *(r for router in _routers(first.limits) for r in router.routes)]
    routes = [route for route in found if getattr(route, "path", "")]
    # the last added sees a request first
    app.add_middleware(RunChoice, runs=runs, make=make)
    app.add_middleware(GZipMiddleware, compresslevel=5, exclude_content_types=AS_IT_IS)
    app.add_middleware(Head)
    app.add_middleware(BodyKind)  # behind BodyLimit, which has read what the client is sending
    app.add_middleware(BodyLimit, limit=lambda path: _body_limit(path, limits))
    app.add_middleware(Admission, ongoing=limits.max_ongoing, queued=limits.max_queued)
    if quotas is not None:
        app.add_middleware(QuotaCheck, quotas=quotas)
    app.add_middleware(KeyCheck, keys=Keys() if keys is None else keys)
    app.add_middleware(Counting, counts=counts, routes=routes)
    app.add_middleware(AccessLog, to=access_log, routes=routes)
    if origins:  # first of all: a browser reads no answer without its headers, not even a 401
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Content-Type",
                "X-API-Key",
                "Authorization",
                "If-None-Match",
                "X-Request-Id",
            ],
            expose_headers=list(EXPOSED),
        )
    return app


def of_run(served: Served, runs: Runs, counts: Counts) -> FastAPI:
    """The routes, with what a request to this run may hold."""
    app = FastAPI(
        title="denoised-weights",
        version=_version(),
        description="Text → LoRA adapter of an image-to-image GAN; text + image → edited image.",
        responses={
            400: described("The body cannot be read"),
            401: described("A key is needed"),
            429: described("As much was asked as may be: come again after Retry-After seconds"),
        },
    )
    app.state.limits, app.state.backend = served.limits, runs.backend(served)
    app.state.runs, app.state.counts = runs, counts
    for router in _routers(served.limits):
        if router in (operations.probes, served_runs.router):  # the same for all
            app.include_router(router)
        else:
            app.include_router(router, dependencies=[Depends(named_run)], responses=NO_RUN)
    add_handlers(app)
    return app


def _routers(limits: Limits) -> list[APIRouter]:
    parts = (adapters, translate, finetunes, examples)
    made = [part.make_router(limits) for part in parts]
    return [operations.probes, operations.router, *made, served_runs.router]


def _body_limit(path: str, limits: Limits) -> int:
    many = path.startswith("/v1/finetunes")
    return (limits.max_upload_bytes if many else limits.max_image_bytes) + FORM_BYTES


def _version() -> str:
    try:
        return version("denoised-weights")
    except PackageNotFoundError:  # uploaded to a cluster as a working directory
        return "unknown"
