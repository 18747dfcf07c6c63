"""The HTTP application of `serve`: middleware, error handlers, routers. No Ray and no torch in it.

Nothing that a client sends is opened as a path or a URL, and no error text repeats its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from pipelines.serve.errors import add_handlers, described
from pipelines.serve.interface import Backend, Limits
from pipelines.serve.middleware import Admission, BodyLimit, Counting, Counts, KeyCheck
from pipelines.serve.routes import adapters, examples, finetunes, operations, translate

# Room for the other form fields and the multipart boundaries
FORM_BYTES = 64_000


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
            400: described("The body cannot be read"),
            401: described("A key is needed"),
        },
    )
    counts = Counts(copy)
    app.state.limits, app.state.backend, app.state.counts = limits, backend, counts
    routers = [
        operations.router,
        *(part.make_router(limits) for part in (adapters, translate, finetunes, examples)),
    ]
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    for router in routers:
        app.include_router(router)
    add_handlers(app)
    # the last added sees a request first
    app.add_middleware(BodyLimit, limit=lambda path: _body_limit(path, limits))
    app.add_middleware(Admission, ongoing=limits.max_ongoing, queued=limits.max_queued)
    app.add_middleware(KeyCheck, keys=keys)
    app.add_middleware(Counting, counts=counts, routes=routes)
    return app


def _body_limit(path: str, limits: Limits) -> int:
    many = path.startswith("/v1/finetunes")
    return (limits.max_upload_bytes if many else limits.max_image_bytes) + FORM_BYTES


def _version() -> str:
    try:
        return version("denoised-weights")
    except PackageNotFoundError:  # uploaded to a cluster as a working directory
        return "unknown"
