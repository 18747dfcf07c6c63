"""What clients are told when something is wrong. No text repeats a request's input."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from pipelines.serve.middleware import REQUEST, RETRY
from pipelines.serve.runs.served import RunRefusedError, UnknownRunError
from pipelines.use.adapter_names import OtherModelError, UnknownAdapterError
from pipelines.use.finetune_request import BusyError, FinetuneError

Result = TypeVar("Result")


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind, status in (
        (UnknownAdapterError, 404),
        (UnknownRunError, 404),
        (RunRefusedError, 409),
        (OtherModelError, 409),
        (FinetuneError, 422),
        (BusyError, 503),
    ):
        app.add_exception_handler(kind, _told(status))
    app.add_exception_handler(Exception, _failed)


def described(description: str) -> dict[str, Any]:
    """An error of a route, for the OpenAPI document."""
    schema = {"type": "object", "properties": {"detail": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


BUSY = described("Too busy, or being updated: come again after Retry-After seconds")
ADAPTER_GONE: dict[int | str, dict[str, Any]] = {
    404: described("No adapter has this name"),
    409: described("It is of another model than the one that is served"),
}


def wrong(field: str, message: str) -> HTTPException:
    """422 in the form of FastAPI's own."""
    return HTTPException(422, _detail(field, message))


async def current(answer: Awaitable[Result]) -> Result:
    """Await what a concept asked for: that its parts are of two models is nobody's mistake."""
    try:
        return await answer
    except OtherModelError as error:
        raise HTTPException(503, "the service is being updated", RETRY) from error


def _detail(field: str, message: str) -> list[dict[str, Any]]:
    return [{"loc": ["body", field], "msg": message, "type": "value_error"}]


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
    name = request.scope.get(REQUEST, "")
    headers = {"X-Request-Id": name} if name else None
    return JSONResponse({"detail": "the service failed; its log says why"}, 500, headers)


def _printable(part: object) -> str | int:
    return part if isinstance(part, int) else str(part)[:200].encode("utf-8", "replace").decode()
