"""The deployments of the service on Ray Serve, each with its own number of copies.

    Api ──► Weights ──► Text           text → adapter
        ──► Translator ──► Weights     picture + adapter → picture
        ──► Finetunes ──► Weights      pairs, or an editor → fine-tuned adapter, by a Ray task

Work is done in threads, so that a copy stays able to answer Serve's health checks; one batch at a
time. A request whose client has gone is taken out of a batch that has not begun; a batch that has
is finished.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from cachetools import LRUCache
from ray import serve

from modeling.targets.lora import AdapterError
from modeling.text import TextEmbedding
from pipelines.config import tree as config_tree
from pipelines.config.sections.operation import Replicas
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.serve.backend import answered, refusing
from pipelines.serve.shared_work import SharedWork
from pipelines.use import finetune_jobs as jobs
from pipelines.use.adapter_names import FINETUNED, Ask, UnknownAdapterError, ask_of, job_of, name_of
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_editors import check
from pipelines.use.finetune_request import ENDED, FAILED, BusyError, Request
from pipelines.use.finetune_task import finetune
from pipelines.use.parts import Loaded, Merged, TextPart, TranslatorPart, WeightPart

Result = TypeVar("Result")


async def in_one_batch(call: Coroutine[Any, Any, Result]) -> Result:
    """Await a `serve.batch` method so that requests for different adapters share a batch.

    Serve splits a batch by the multiplexed model id of its requests' contexts; an empty context
    has none.
    """
    return await asyncio.create_task(call, context=contextvars.Context())


def check_model(run: RunDir, deployed: str, found: str) -> None:
    """ArtifactError if a copy that starts late finds another model than the service began with."""
    if deployed != found:
        raise ArtifactError(f"{run.uri} was made again since the service was deployed: deploy anew")


def _own_share(replicas: Replicas) -> None:
    """Of the cores, as in every actor."""
    torch.set_num_threads(max(1, int(replicas.cpus)))


def _set_batch(method: Any, replicas: Replicas) -> None:
    method.set_max_batch_size(replicas.batch)
    method.set_batch_wait_timeout_s(replicas.wait_ms / 1000)


class Text:
    """Text → its embedding, and the nearest concepts that were trained on."""

    def __init__(self, config: dict[str, Any], run: RunDir) -> None:
        c = config_tree.from_dict(config)
        _own_share(c.serve.text)
        self.part = TextPart(c, run)
        _set_batch(self.encode, c.serve.text)

    @serve.batch
    async def encode(self, texts: list[str]) -> list[TextEmbedding]:
        return await asyncio.to_thread(self.part.encode, texts)

    async def containing(self, words: str, count: int) -> list[Known]:
        return self.part.containing(words, count)

    async def nearest(self, text: str, count: int) -> list[Near]:
        one: Any = self.encode  # serve.batch takes one and gives one, which its type does not say
        return await asyncio.to_thread(self.part.nearest, await one(text), count)

    async def dim(self) -> int:
        return self.part.encoder.dim


class Weights:
    """Name of an adapter → the adapter; keeps the last ones."""

    def __init__(self, config: dict[str, Any], run: RunDir, model: str, text: Any) -> None:
        c = config_tree.from_dict(config)
        _own_share(c.serve.weights)
        self.part, self.text = WeightPart(c, run), text
        check_model(run, model, self.part.digests["model"])
        self.kept: LRUCache[str, Loaded] = LRUCache(c.serve.cache)
        self.pending = SharedWork[Loaded]()
        _set_batch(self._predict, c.serve.weights)
        # a damaged run is found now, and the first client does not wait for first-call costs
        dim = self.part.generator.config.text_dim
        warm = TextEmbedding(torch.zeros(2, dim), torch.zeros(dim))
        (made,) = self.part.predict([(Ask("", 0, c.adapt.t, self.part.decoder.steps), warm)])
        if isinstance(made, AdapterError):
            raise made
        self.text_checked = False

    def check_health(self) -> None:
        """Called by Serve; raising gets this replica replaced."""
        torch.zeros(1, device=self.part.device).add(1).item()  # fails if the device is lost

    async def about(self) -> dict[str, Any]:
        """What is being served; also waits until the text encoder answers."""
        if not self.text_checked:
            self.part.check_text(await answered(lambda: self.text.dim.remote()))
            self.text_checked = True
        return self.part.about()

    @refusing
    async def load(self, name: str) -> Loaded:
        """UnknownAdapterError, OtherModelError; AdapterError if a prediction is not finite."""
        return await self._load(name)

    async def _load(self, name: str) -> Loaded:
        if name in self.kept:
            return self.kept[name]
        # requests for one adapter wait for one prediction
        return await self.pending.of(name, lambda: self._make(name))

    async def _make(self, name: str) -> Loaded:
        if name.startswith(FINETUNED):
            loaded = await asyncio.to_thread(self.part.read, job_of(name))
        else:
            ask = ask_of(name, self.part.digests["model"])
            embedding = await answered(lambda: self.text.encode.remote(ask.concept))
            one: Any = self._predict  # serve.batch takes one and gives one
            made = await one((ask, embedding))
            if isinstance(made, AdapterError):
                raise made
            loaded = made
        self.kept[name] = loaded
        return loaded

    @serve.batch
    async def _predict(self, asks: list[tuple[Ask, TextEmbedding]]) -> list[Loaded | AdapterError]:
        return await asyncio.to_thread(self.part.predict, asks)

    @refusing
    async def files(self, name: str) -> AdapterFiles:
        """In PEFT's format, under the name that holds on to this model; raises as `load`."""
        loaded = await self._load(name)
        about = dict(loaded.about)
        if not name.startswith(FINETUNED):
            ask = ask_of(name, loaded.model)
            name, about = name_of(ask, loaded.model), {k: str(v) for k, v in vars(ask).items()}
        return await asyncio.to_thread(self.part.files, loaded.adapter, name, about)


class Translator:
    """Picture + name of an adapter → picture; keeps the last adapters merged."""

    def __init__(self, config: dict[str, Any], run: RunDir, model: str, weights: Any) -> None:
        c = config_tree.from_dict(config)
        _own_share(c.serve.translator)
        self.part, self.weights = TranslatorPart(c, run), weights
        check_model(run, model, self.part.model)
        _set_batch(self._translate, c.serve.translator)

    def check_health(self) -> None:
        torch.zeros(1, device=self.part.device).add(1).item()

    async def merge(self, name: str) -> Merged:
        loaded = await answered(lambda: self.weights.load.remote(name))
        return await asyncio.to_thread(self.part.merge, loaded)

    async def merged(self, name: str) -> Merged:
        """Not kept; see `translator_class`."""
        return await self.merge(name)

    @refusing
    async def translate(
        self, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, list[str]]:
        """Edit uint8 [H, W, 3]; also the adapters' full names. Raises as Weights.load."""
        # one after the other: what Serve keeps of adapters counts those that are being loaded, too
        merged = [(await self.merged(n))._replace(strength=strength) for n, strength in mix]
        ask: Any = (picture, merged)
        made: Any = await in_one_batch(self._translate(ask))
        return made, [self._full(name) for name, _ in mix]

    def _full(self, name: str) -> str:
        if name.startswith(FINETUNED):
            return name
        return name_of(ask_of(name, self.part.model), self.part.model)

    @serve.batch
    async def _translate(self, asks: list[tuple[np.ndarray, Sequence[Merged]]]) -> list[np.ndarray]:
        return await asyncio.to_thread(self.part.translate, asks)


def translator_class(room: int) -> type[Translator]:
    """A Translator that keeps `room` adapters: Serve's decorator wants to be told at once."""

    class Keeping(Translator):
        @serve.multiplexed(max_num_models_per_replica=room)
        async def merged(self, name: str) -> Merged:
            return await self.merge(name)

    return Keeping


class Finetunes:
    """Takes in fine-tunes and has them done by Ray tasks, a few at a time. One copy only.

    What it knows is in the run directory: a new copy goes on with what the last one left.
    """

    def __init__(self, config: dict[str, Any], run: RunDir, weights: Any) -> None:
        import ray

        self.config = config_tree.from_dict(config)
        self.saved, self.run, self.weights = config, run, weights
        c = self.config.cluster
        self.task = ray.remote(num_cpus=c.cpus_per_actor, num_gpus=c.gpus_per_actor, max_retries=3)(
            finetune
        )
        self.working: dict[str, asyncio.Task[None]] = {}
        self.turn = asyncio.Semaphore(self.config.serve.finetunes)
        self.recovered = False

    async def _recover(self) -> None:
        if self.recovered:
            return
        self.recovered = True
        for _, job in await asyncio.to_thread(jobs.stored, self.run):
            told = jobs.status(self.run, job)
            if told and told["status"] not in ENDED:
                self._start(job)

    async def check_health(self) -> None:
        await self._recover()  # called soon after the start, and again and again

    def _start(self, job: str) -> None:
        task = asyncio.create_task(self._work(job))
        self.working[job] = task
        task.add_done_callback(lambda _: self.working.pop(job, None))

    async def _work(self, job: str) -> None:
        async with self.turn:
            try:
                await self.task.remote(self.saved, self.run, job)
            except Exception as error:  # its worker died more often than Ray tries again
                log(f"finetune {job}: {type(error).__name__}: {error}")
                jobs.end(self.run, job, FAILED, error="its worker died")
        await asyncio.to_thread(jobs.forget, self.run, self.config.serve.finetunes_kept)

    @refusing
    async def submit(
        self, job: str, request: Request, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """FinetuneError if it cannot be done, BusyError if too many wait.

        job: a name that nobody had before; asking for it once more changes nothing.
        """
        await self._recover()
        s = self.config.serve
        stored = await asyncio.to_thread(jobs.status, self.run, job)
        if job in self.working or stored:
            return
        if len(self.working) >= s.finetunes + s.finetunes_waiting:
            raise BusyError("too many fine-tunes wait")
        check(self.config, request)
        ask = Ask(request.concept, request.seed, request.t, request.steps)
        start: Loaded = await answered(lambda: self.weights.load.remote(name_of(ask, "")))
        assert start.pooled is not None  # a name without a job's is of a prediction
        text = TextEmbedding(start.tokens, start.pooled)
        await asyncio.to_thread(jobs.accept, self.run, job, request, pairs, start.adapter, text)
        self._start(job)

    @refusing
    async def status(self, job: str) -> dict[str, Any]:
        """UnknownAdapterError for no such job."""
        return await self._status(job)

    async def _status(self, job: str) -> dict[str, Any]:
        told = await asyncio.to_thread(jobs.status, self.run, job)
        if told is None:
            raise UnknownAdapterError("there is no such fine-tune")
        return told

    @refusing
    async def cancel(self, job: str) -> dict[str, Any]:
        """Its status; one that has ended stays as it is."""
        told = await self._status(job)
        if told["status"] in ENDED:
            return told
        await asyncio.to_thread(self.run.write, f"{jobs.folder(job)}/{jobs.CANCEL}", b"")
        return {**told, "cancelling": True}
