"""Calls of the deployments, by the HTTP part and by one another. No torch in here.

So the processes of the HTTP part do without it. (One would load it to be told that a prediction is
not finite: AdapterError is at home beside the adapters.)
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, NamedTuple, NoReturn, ParamSpec, TypeVar

import numpy as np
from ray import serve
from ray.exceptions import RayActorError
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from pipelines.use.adapter_names import OtherModelError, UnknownAdapterError
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_request import BusyError, FinetuneError, Request

Result = TypeVar("Result")
Part = TypeVar("Part")
P = ParamSpec("P")
ATTEMPTS = 6
"""Of a call whose copy dies; the last comes 3 s after the first."""
TEXT, WEIGHTS, TRANSLATOR, FINETUNES = "Text", "Weights", "Translator", "Finetunes"


def _busy(state: RetryCallState) -> NoReturn:
    raise BusyError("a part of the service is being started again")


REFUSALS = (UnknownAdapterError, OtherModelError, FinetuneError, BusyError)


class Refused(NamedTuple):
    """What a part answers where it may not do what was asked.

    An error that is raised there would be thirty lines of traceback in the log, each time.
    """

    error: Exception


def refusing(
    method: Callable[Concatenate[Part, P], Awaitable[Result]],
) -> Callable[Concatenate[Part, P], Awaitable[Result | Refused]]:
    """A deployment's method that answers REFUSALS as `Refused`; `answered` raises them again."""

    @functools.wraps(method)
    async def wrapped(self: Part, *args: P.args, **keys: P.kwargs) -> Result | Refused:
        try:
            return await method(self, *args, **keys)
        except REFUSALS as error:
            return Refused(error)

    return wrapped


@retry(
    retry=retry_if_exception_type(RayActorError),
    wait=wait_exponential(0.1),
    stop=stop_after_attempt(ATTEMPTS),
    retry_error_callback=_busy,
)
async def answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """Await a call of another part, again if the copy that had it died: none changes anything.

    BusyError if it died each time; what `refusing` has caught.
    """
    result = await call()
    if isinstance(result, Refused):
        raise result.error
    return result


class RayBackend:
    """pipelines.serve.interface.Backend, through handles of the deployments."""

    def __init__(self) -> None:
        get = serve.get_deployment_handle
        self.text, self.weights = get(TEXT), get(WEIGHTS)
        self.translator, self.finetunes = get(TRANSLATOR), get(FINETUNES)

    async def about(self) -> dict[str, Any]:
        return await answered(lambda: self.weights.about.remote())

    async def files(self, name: str) -> AdapterFiles:
        return await answered(lambda: self.weights.files.remote(name))

    async def translate(
        self, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, Sequence[str]]:
        # to a copy that has the first adapter, if there is one
        handle = self.translator.options(multiplexed_model_id=mix[0][0])
        return await answered(lambda: handle.translate.remote(picture, mix))

    async def containing(self, words: str, count: int) -> list[Known]:
        return await answered(lambda: self.text.containing.remote(words, count))

    async def nearest(self, text: str, count: int) -> list[Near]:
        return await answered(lambda: self.text.nearest.remote(text, count))

    async def submit(
        self, job: str, request: Request, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        await answered(lambda: self.finetunes.submit.remote(job, request, pairs))

    async def status(self, job: str) -> dict[str, Any]:
        return await answered(lambda: self.finetunes.status.remote(job))

    async def cancel(self, job: str) -> dict[str, Any]:
        return await answered(lambda: self.finetunes.cancel.remote(job))
