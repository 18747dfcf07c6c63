"""Calls of the deployments, by the HTTP part and by one another. No torch in here.

So the processes of the HTTP part do without it. (One would load it to be told that a prediction is
not finite: AdapterError is at home beside the adapters.)
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
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

from pipelines.serve.runs.served import (
    RunRefusedError,
    Served,
    Table,
    UnknownRunError,
    place_of,
)
from pipelines.serve.shared_work import SharedWork
from pipelines.use.adapter_names import (
    FINETUNED,
    MODEL_DIGITS,
    OTHER_MODEL,
    OtherModelError,
    UnknownAdapterError,
    job_of,
    parse,
)
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_request import BusyError, FinetuneError, Request

Result = TypeVar("Result")
Part = TypeVar("Part")
P = ParamSpec("P")
ATTEMPTS = 6
"""Of a call whose copy dies; the last comes 3 s after the first."""
LOOK_SECONDS = 0.5
"""Between two looks of a copy of the HTTP part at which runs are served."""
LOOK_TIMEOUT = 2.0
RUNS, TEXT, WEIGHTS, TRANSLATOR, FINETUNES = "Runs", "Text", "Weights", "Translator", "Finetunes"

logger = logging.getLogger(__name__)


def _busy(state: RetryCallState) -> NoReturn:
    raise BusyError("a part of the service is being started again")


REFUSALS = (
    *(UnknownAdapterError, OtherModelError, FinetuneError, BusyError),
    *(UnknownRunError, RunRefusedError),
)


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


class RayRuns:
    """pipelines.serve.interface.Runs, through handles of the deployments."""

    def __init__(self, table: Table) -> None:
        """table: served until the first look."""
        self.runs = serve.get_deployment_handle(RUNS)
        self.table, self.looked, self.looking = table, -LOOK_SECONDS, SharedWork[None]()

    async def now(self) -> Table:
        """What is served, as of LOOK_SECONDS ago at most."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            await self.looking.of(RUNS, self._look)
        return self.table

    async def _look(self) -> None:
        try:
            self.table = await asyncio.wait_for(self.runs.table.remote(), LOOK_TIMEOUT)
        except Exception as error:  # it is being started again: what was served is served
            logger.warning("which runs are served: %s: %s", type(error).__name__, error)
        self.looked = time.monotonic()

    def backend(self, served: Served) -> RayBackend:
        return RayBackend(served, self)

    async def serve(self, name: str, uri: str) -> Served:
        made: Served = await answered(lambda: self.runs.serve.remote(name, uri))
        self.looked = -LOOK_SECONDS
        return made

    async def remove(self, name: str) -> None:
        await answered(lambda: self.runs.remove.remote(name))
        self.looked = -LOOK_SECONDS


class RayBackend:
    """pipelines.serve.interface.Backend of one run, through handles of the deployments."""

    def __init__(self, served: Served, runs: RayRuns) -> None:
        self.model, self.runs = served.model, runs
        get = serve.get_deployment_handle
        self.text, self.weights = get(TEXT), get(WEIGHTS)
        self.translator, self.finetunes = get(TRANSLATOR), get(FINETUNES)

    async def about(self) -> dict[str, Any]:
        return await answered(lambda: self.weights.about.remote(self.model))

    async def files(self, name: str) -> AdapterFiles:
        try:
            return await answered(lambda: self.weights.files.remote(self.model, name))
        except (UnknownAdapterError, OtherModelError) as error:
            raise await self._whose(name) or error from error

    async def translate(
        self, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, Sequence[str]]:
        # to a copy that has the first adapter, if there is one
        place = place_of(self.model, mix[0][0])
        handle = self.translator.options(multiplexed_model_id=place)
        try:
            return await answered(lambda: handle.translate.remote(self.model, picture, mix))
        except (UnknownAdapterError, OtherModelError) as error:
            found = [await self._whose(name) for name, _ in mix]
            raise next(filter(None, found), error) from error

    async def containing(self, words: str, count: int) -> list[Known]:
        return await answered(lambda: self.text.containing.remote(self.model, words, count))

    async def nearest(self, text: str, count: int) -> list[Near]:
        return await answered(lambda: self.text.nearest.remote(self.model, text, count))

    async def submit(
        self, job: str, request: Request, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        await answered(lambda: self.finetunes.submit.remote(self.model, job, request, pairs))

    async def status(self, job: str) -> dict[str, Any]:
        return await self._of_job(job, lambda uri: self.finetunes.status.remote(uri, job))

    async def cancel(self, job: str) -> dict[str, Any]:
        return await self._of_job(job, lambda uri: self.finetunes.cancel.remote(uri, job))

    async def _of_job(self, job: str, call: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        """Of a fine-tune of this run, or of one that is no longer served, which still ends."""
        try:
            return await answered(lambda: call(self.model.uri))
        except UnknownAdapterError as unknown:
            former = (await self.runs.now()).former
            uri = await answered(lambda: self.finetunes.find.remote(job, former))
            if not uri:
                raise await self._whose(f"{FINETUNED}{job}") or unknown from unknown
            return await answered(lambda: call(uri))

    async def _whose(self, name: str) -> OtherModelError | None:
        """What to do with a name that this run has no adapter of: None if nobody knows it."""
        table = await self.runs.now()
        others = [served for served in table.runs if served.model != self.model]
        if name.startswith(FINETUNED):
            uris = [served.model.uri for served in others] + list(table.former)
            job = job_of(name)
            uri = await answered(lambda: self.finetunes.find.remote(job, uris))
            known = bool(uri)
            there = [served.name for served in others if served.model.uri == uri]
        else:
            digits = parse(name)[1]
            known = digits not in ("", self.model.digest[:MODEL_DIGITS])
            there = [s.name for s in others if s.model.digest.startswith(digits)]
        if not known:
            return None
        if there:
            return OtherModelError(f"this adapter is of another run: ask with run={there[0]}")
        return OtherModelError(OTHER_MODEL)
