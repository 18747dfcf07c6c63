"""Which runs are served now, and the change from one to another under load.

A run that comes is loaded by every copy beside those that are served; then the table changes, which
the copies of the HTTP part look at (pipelines/serve/backend.py); then what is of none of its models
is dropped. A request goes on with the model that it began with.

Ray's own store (that of its control service, which Serve keeps its state in, too) remembers a
change for as long as the cluster lives, or until other runs are configured.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from ray import serve
from ray.experimental import internal_kv
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipelines.config import tree as config_tree
from pipelines.runtime.log import log
from pipelines.serve.backend import (
    ATTEMPTS,
    FINETUNES,
    LOOK_SECONDS,
    TEXT,
    TRANSLATOR,
    WEIGHTS,
    answered,
    refusing,
)
from pipelines.serve.runs.served import (
    OF_THE_SERVICE,
    Limits,
    Model,
    RunRefusedError,
    Served,
    Table,
)

Result = TypeVar("Result")
PLACE = b"served_runs"
NAMESPACE = b"denoised_weights"
DRAIN_SECONDS = 10.0
"""After a change until the old model is dropped."""
LOAD_SECONDS = 600.0
"""A copy that has not loaded a run by then is not waited for."""


def current(table: Table) -> Table:
    """What is served where `table` is configured: that, or what it has been changed to."""
    if not internal_kv._internal_kv_initialized():  # no Ray: nothing can have changed it
        return table
    data = internal_kv._internal_kv_get(PLACE, namespace=NAMESPACE)
    stored = json.loads(data) if data else {}
    if stored.get("configured") != _models(table):
        return table
    return _from_json(stored["now"], table.of("").limits)


def remember(table: Table, now: Table) -> None:
    """That `now` is served where `table` is configured."""
    data = json.dumps({"configured": _models(table), "now": asdict(now)})
    internal_kv._internal_kv_put(PLACE, data.encode(), overwrite=True, namespace=NAMESPACE)


def _models(table: Table) -> list[list[str]]:
    return [[served.name, *served.model] for served in table.runs]


def _from_json(tree: dict[str, Any], service: Limits) -> Table:
    """service: limits of a run by the present configuration, which may have other serve.*."""
    own = {name: getattr(service, name) for name in OF_THE_SERVICE}
    runs = []
    for served in tree["runs"]:
        fields = {**served["limits"], "editors": tuple(served["limits"]["editors"]), **own}
        runs.append(Served(served["name"], Model(*served["model"]), Limits(**fields)))
    return Table(tuple(runs), tuple(tree["former"]))


class Runs:
    """Changes which runs are served, one change after another. One copy only."""

    def __init__(self, given: dict[str, Any], table: Table) -> None:
        self.given, self.configured = config_tree.from_dict(given), table
        self.now = current(table)
        remember(table, self.now)  # what other runs' configuration left is forgotten
        self.begun = False
        self.turn = asyncio.Lock()
        self.tidying: set[asyncio.Task[None]] = set()

    async def check_health(self) -> None:
        """Called soon after the start: a copy that died in a change left something."""
        if not self.begun:
            self.begun = True
            self._tidy(DRAIN_SECONDS)

    async def table(self) -> Table:
        return self.now

    @refusing
    async def serve(self, name: str, uri: str) -> Served:
        """Serve a run under a name from now on; uri "": the one of this name, as it is now.

        RunRefusedError if it cannot be, and everything is as it was; UnknownRunError.
        """
        return await _to_its_end(self._serve(name, uri))

    async def _serve(self, name: str, uri: str) -> Served:
        async with self.turn:
            wanted = uri or self.now.of(name).model.uri
            finetunes = serve.get_deployment_handle(FINETUNES)
            new: Served = await answered(lambda: finetunes.describe.remote(name, wanted))
            log(f"serve: loading {new.model.uri} as {name}")
            await self._everywhere("keep", self.now.models)  # of an earlier change, if in a row
            refused = await self._everywhere("hold", new.model)
            if any(refused):
                await self._everywhere("keep", self.now.models)
                raise RunRefusedError(next(filter(None, refused)))
            await self._change(self.now.with_run(new))
            log(f"serve: {name} is {new.model.uri} from now on")
            return new

    @refusing
    async def remove(self, name: str) -> None:
        """RunRefusedError for the first; UnknownRunError."""
        await _to_its_end(self._remove(name))

    async def _remove(self, name: str) -> None:
        async with self.turn:
            await self._change(self.now.without(name))

    async def _change(self, table: Table) -> None:
        await asyncio.to_thread(remember, self.configured, table)
        self.now = table
        await asyncio.sleep(2 * LOOK_SECONDS)  # then every copy of the HTTP part has looked
        # requests that began before; those that waited long may have had the old model loaded again
        for seconds in (DRAIN_SECONDS, self.given.serve.timeout_s):
            self._tidy(seconds)

    def _tidy(self, seconds: float) -> None:
        """Drop what is not served, so many seconds from now."""
        task = asyncio.create_task(self._tidied(seconds))
        self.tidying.add(task)
        task.add_done_callback(self.tidying.discard)

    async def _tidied(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self.turn:  # not while another run is being loaded
            await self._everywhere("keep", self.now.models)

    async def _everywhere(self, method: str, *arguments: Any) -> list[str]:
        """What each copy of each part answers, or what kept it from answering; "" for no trouble.

        Text encoders first, which weight generators are checked against.
        """
        parts = (TEXT, WEIGHTS, TRANSLATOR, FINETUNES)
        return [told for part in parts for told in await _copies_answers(part, method, arguments)]


@retry(
    retry=retry_if_exception_type(DeploymentUnavailableError),
    wait=wait_exponential(0.1),
    stop=stop_after_attempt(ATTEMPTS),
    reraise=True,
)
async def _asked(part: str, method: str, arguments: Sequence[Any]) -> list[Any]:
    asked = serve.get_deployment_handle(part).broadcast(method, *arguments)
    answers: list[Any] = await asked.results_async(timeout_s=LOAD_SECONDS, return_exceptions=True)
    return answers


async def _copies_answers(part: str, method: str, arguments: Sequence[Any]) -> list[str]:
    try:
        answers = await _asked(part, method, arguments)
    except (RayServeException, TimeoutError) as error:
        answers = [error]
    return [f"{part}: {type(a).__name__}" if isinstance(a, BaseException) else a for a in answers]


async def _to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Also if the client goes: a change that is half done would be nobody's."""
    # in a context of its own: Ray cancels what a request calls by what its context says
    return await asyncio.shield(asyncio.create_task(work, context=contextvars.Context()))
