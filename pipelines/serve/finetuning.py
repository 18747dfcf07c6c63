"""The deployment that takes in fine-tunes, of every run that is served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from modeling.text import TextEmbedding
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.serve.backend import answered, refusing
from pipelines.serve.deployments import Holding
from pipelines.serve.runs.describing import describe
from pipelines.serve.runs.held import Held
from pipelines.serve.runs.served import Model, RunRefusedError, Served, Table
from pipelines.serve.runs.swapping import current
from pipelines.use import finetune_jobs as jobs
from pipelines.use.adapter_names import Ask, UnknownAdapterError, name_of
from pipelines.use.finetune_editors import check
from pipelines.use.finetune_request import ENDED, FAILED, BusyError, Request
from pipelines.use.finetune_task import finetune
from pipelines.use.parts import Loaded
from pipelines.use.saved_run import saved_config

Of = tuple[Config, RunDir]
"""A run, and the configuration that it was made with."""


class Finetunes(Holding[Of]):
    """Takes in fine-tunes and has them done by Ray tasks, a few at a time. One copy only.

    What it knows is in the run directories: a new copy goes on with what the last one left. Those
    of a run that is no longer served are finished.
    """

    def __init__(self, given: dict[str, Any], table: Table, weights: Any) -> None:
        import ray

        self.given, self.table, self.weights = config_tree.from_dict(given), table, weights
        self.held = Held(lambda config, run: (config, run), self.given)
        c = self.given.cluster
        self.task = ray.remote(num_cpus=c.cpus_per_actor, num_gpus=c.gpus_per_actor, max_retries=3)(
            finetune
        )
        self.working: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.turn = asyncio.Semaphore(self.given.serve.finetunes)
        self.recovered: set[str] = set()

    async def _recover(self, uri: str, of: Of) -> None:
        if uri in self.recovered:
            return
        run = of[1]
        for _, job in await asyncio.to_thread(jobs.stored, run):
            told = await asyncio.to_thread(jobs.status, run, job)
            if told and told["status"] not in ENDED and (run.uri, job) not in self.working:
                self._start(of, job)
        self.recovered.add(uri)

    async def check_health(self) -> None:
        """Called soon after the start, and again and again."""
        table = current(self.table)
        for uri in [*(model.uri for model in table.models), *table.former]:
            if uri in self.recovered:
                continue
            try:
                run = RunDir(uri)
                config = await asyncio.to_thread(saved_config, run, self.given)
                await self._recover(uri, (config, run))
            except Exception as error:  # the other runs' go on
                log(f"serve: fine-tunes of {uri}: {type(error).__name__}: {error}")
                if uri in table.former:  # it may be gone for good
                    self.recovered.add(uri)

    def _start(self, of: Of, job: str) -> None:
        task = asyncio.create_task(self._work(of, job))
        where = of[1].uri, job
        self.working[where] = task
        task.add_done_callback(lambda _: self.working.pop(where, None))

    async def _work(self, of: Of, job: str) -> None:
        config, run = of
        async with self.turn:
            try:
                await self.task.remote(config_tree.to_dict(config), run, job)
            except Exception as error:  # its worker died more often than Ray tries again
                log(f"finetune {job}: {type(error).__name__}: {error}")
                jobs.end(run, job, FAILED, error="its worker died")
        await asyncio.to_thread(jobs.forget, run, self.given.serve.finetunes_kept)

    @refusing
    async def describe(self, name: str, uri: str) -> Served:
        """A run as it is now; RunRefusedError if it cannot be served."""
        try:
            return await asyncio.to_thread(describe, name, uri, self.given)
        except (StageError, ArtifactError, ConfigError) as error:
            raise RunRefusedError(str(error)) from error

    @refusing
    async def submit(
        self,
        model: Model,
        job: str,
        request: Request,
        pairs: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """FinetuneError if it cannot be done, BusyError if too many wait.

        job: a name that nobody had before; asking for it once more changes nothing.
        """
        config, run = of = await self.held.of(model)
        await self._recover(model.uri, of)
        stored = await asyncio.to_thread(jobs.status, run, job)
        if (run.uri, job) in self.working or stored:
            return
        s = self.given.serve
        if len(self.working) >= s.finetunes + s.finetunes_waiting:
            raise BusyError("too many fine-tunes wait")
        check(config, request)
        ask = Ask(request.concept, request.seed, request.t, request.steps)
        start: Loaded = await answered(lambda: self.weights.load.remote(model, name_of(ask, "")))
        assert start.pooled is not None  # a name without a job's is of a prediction
        text = TextEmbedding(start.tokens, start.pooled)
        await asyncio.to_thread(jobs.accept, run, job, request, pairs, start.adapter, text)
        self._start(of, job)

    async def find(self, job: str, uris: Sequence[str]) -> str:
        """Which of these run directories has a fine-tune, "" if none."""
        for uri in uris:
            try:
                there = RunDir(uri).exists
                if await asyncio.to_thread(there, f"{jobs.folder(job)}/{jobs.REQUEST}"):
                    return uri
            except (ArtifactError, OSError) as error:  # one that has gone keeps no other back
                log(f"serve: fine-tunes of {uri}: {error}")
        return ""

    @refusing
    async def status(self, uri: str, job: str) -> dict[str, Any]:
        """UnknownAdapterError for no such job in this run directory."""
        return await self._status(uri, job)

    async def _status(self, uri: str, job: str) -> dict[str, Any]:
        told = await asyncio.to_thread(jobs.status, RunDir(uri), job)
        if told is None:
            raise UnknownAdapterError("there is no such fine-tune")
        return told

    @refusing
    async def cancel(self, uri: str, job: str) -> dict[str, Any]:
        """Its status; one that has ended stays as it is."""
        told = await self._status(uri, job)
        if told["status"] in ENDED:
            return told
        await asyncio.to_thread(RunDir(uri).write, f"{jobs.folder(job)}/{jobs.CANCEL}", b"")
        return {**told, "cancelling": True}
