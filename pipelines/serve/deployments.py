"""The deployments of the service on Ray Serve, each with its own number of copies.

    Api ──► Weights ──► Text           text → adapter
        ──► Translator ──► Weights     picture + adapter → picture
        ──► Finetunes ──► Weights      pairs, or an editor → fine-tuned adapter, by a Ray task

Each holds its part of every run that is served (pipelines/serve/runs/held.py) and is asked with the
model that is meant, so that one is changed while requests to the one before are still at work.

Work is done in threads, so that a copy stays able to answer Serve's health checks; one batch at a
time. A request whose client has gone is taken out of a batch that has not begun; a batch that has
is finished.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import torch
from cachetools import LRUCache
from ray import serve

from modeling.targets.lora import AdapterError
from modeling.text import TextEmbedding, TextEncoder
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.config.sections.operation import Replicas
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.backend import answered, refusing
from pipelines.serve.runs.held import Held
from pipelines.serve.runs.served import Model, Table, place_of
from pipelines.serve.runs.swapping import current
from pipelines.serve.shared_work import SharedWork
from pipelines.use.adapter_names import FINETUNED, Ask, ask_of, job_of, name_of
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.parts import Loaded, Merged, TextPart, TranslatorPart, WeightPart

Result = TypeVar("Result")
Part = TypeVar("Part")
One = TypeVar("One")
Done = TypeVar("Done")


async def in_one_batch(call: Coroutine[Any, Any, Result]) -> Result:
    """Await a `serve.batch` method so that requests for different adapters share a batch.

    Serve splits a batch by the multiplexed model id of its requests' contexts; an empty context
    has none.
    """
    return await asyncio.create_task(call, context=contextvars.Context())


def _own_share(replicas: Replicas) -> None:
    """Of the cores, as in every actor."""
    torch.set_num_threads(max(1, int(replicas.cpus)))


def _set_batch(method: Any, replicas: Replicas) -> None:
    method.set_max_batch_size(replicas.batch)
    method.set_batch_wait_timeout_s(replicas.wait_ms / 1000)


class Asked(Generic[Part, One]):
    """A request in a batch. Emptied with its answer: Serve keeps a batch until the next one comes,
    and the part may be of a model that goes."""

    def __init__(self, part: Part, one: One) -> None:
        self.it: tuple[Part, One] | None = (part, one)

    def taken(self) -> tuple[Part, One]:
        it, self.it = self.it, None
        assert it is not None
        return it


def each_by_its_part(
    asks: Sequence[Asked[Part, One]], work: Callable[[Part, Sequence[One]], Sequence[Done]]
) -> list[Done]:
    """`work` for the requests of each part together; answers in the order of the requests."""
    taken = [ask.taken() for ask in asks]
    places: dict[int, list[int]] = defaultdict(list)
    for i, (part, _) in enumerate(taken):
        places[id(part)].append(i)
    done: dict[int, Done] = {}
    for same in places.values():
        made = work(taken[same[0]][0], [taken[i][1] for i in same])
        done |= dict(zip(same, made, strict=True))
    return [done[i] for i in range(len(asks))]


class Holding(Generic[Part]):
    """A deployment that holds its part of every model that is served."""

    held: Held[Part]

    async def hold(self, model: Model) -> str:
        """Load a model beside the others; why it cannot be, "" if it can."""
        try:
            await self.ready(model)
        except Exception as error:  # whatever a run is made of, those that are served go on
            return f"{type(error).__name__}: {error}"
        return ""

    async def ready(self, model: Model) -> None:
        """Wait until it can be asked for; raises why it cannot."""
        await self.held.of(model)

    async def keep(self, models: Sequence[Model]) -> None:
        """Drop what is of none of these."""
        if self.held.keep(models):
            gc.collect()


class Text(Holding[TextPart]):
    """Text → its embedding, and the nearest concepts that were trained on."""

    def __init__(self, given: dict[str, Any], table: Table) -> None:
        c = config_tree.from_dict(given)
        _own_share(c.serve.text)
        self.encoders: WeakValueDictionary[tuple[str, bool], TextEncoder] = WeakValueDictionary()
        self.held = Held(self._part, c)
        self.held.load_all(current(table).models)
        _set_batch(self._encode, c.serve.text)

    def _part(self, config: Config, run: RunDir) -> TextPart:
        """Runs with one encoder share it."""
        name = (config.text_encoder, config.allow_download)
        part = TextPart(config, run, self.encoders.get(name))
        self.encoders[name] = part.encoder
        return part

    async def encode(self, model: Model, text: str) -> TextEmbedding:
        one: Any = self._encode  # serve.batch takes one and gives one, which its type does not say
        made: TextEmbedding = await one(Asked(await self.held.of(model), text))
        return made

    @serve.batch
    async def _encode(self, asks: list[Asked[TextPart, str]]) -> list[TextEmbedding]:
        return await asyncio.to_thread(each_by_its_part, asks, TextPart.encode)

    async def containing(self, model: Model, words: str, count: int) -> list[Known]:
        return (await self.held.of(model)).containing(words, count)

    async def nearest(self, model: Model, text: str, count: int) -> list[Near]:
        embedding = await self.encode(model, text)
        part = await self.held.of(model)
        return await asyncio.to_thread(part.nearest, embedding, count)

    async def dim(self, model: Model) -> int:
        return (await self.held.of(model)).encoder.dim


class Weights(Holding[WeightPart]):
    """Name of an adapter → adapter, predicted or read; keeps the last ones."""

    def __init__(self, given: dict[str, Any], table: Table, text: Any) -> None:
        c = config_tree.from_dict(given)
        _own_share(c.serve.weights)
        self.text = text
        self.kept: LRUCache[tuple[str, str], Loaded] = LRUCache(c.serve.cache)
        self.pending = SharedWork[Loaded]()
        self.held = Held(warmed, c)
        self.held.load_all(current(table).models)
        _set_batch(self._predict, c.serve.weights)
        self.text_checked: set[str] = set()

    async def check_health(self) -> None:
        """Called by Serve; raising gets this replica replaced."""
        for part in list(self.held.parts.values())[:1]:
            torch.zeros(1, device=part.device).add(1).item()  # fails if the device is lost

    async def ready(self, model: Model) -> None:
        await self.about(model)

    async def keep(self, models: Sequence[Model]) -> None:
        wanted = {model.key for model in models}
        for key, name in list(self.kept):
            if key not in wanted:
                del self.kept[key, name]
        await super().keep(models)

    async def about(self, model: Model) -> dict[str, Any]:
        """What is being served; also waits until the text encoder answers."""
        part = await self.held.of(model)
        if model.key not in self.text_checked:
            part.check_text(await answered(lambda: self.text.dim.remote(model)))
            self.text_checked.add(model.key)
        return part.about()

    @refusing
    async def load(self, model: Model, name: str) -> Loaded:
        """UnknownAdapterError, OtherModelError; AdapterError if a prediction is not finite."""
        return await self._load(model, name)

    async def _load(self, model: Model, name: str) -> Loaded:
        if (model.key, name) in self.kept:
            return self.kept[model.key, name]
        # requests for one adapter wait for one prediction
        return await self.pending.of(f"{model.key}/{name}", lambda: self._make(model, name))

    async def _make(self, model: Model, name: str) -> Loaded:
        part = await self.held.of(model)
        if name.startswith(FINETUNED):
            loaded = await asyncio.to_thread(part.read, job_of(name))
        else:
            ask = ask_of(name, part.digests["model"])
            embedding = await answered(lambda: self.text.encode.remote(model, ask.concept))
            one: Any = self._predict  # serve.batch takes one and gives one
            made = await one(Asked(part, (ask, embedding)))
            if isinstance(made, AdapterError):
                raise made
            loaded = made
        if model.key in self.held.parts:
            self.kept[model.key, name] = loaded
        return loaded

    @serve.batch
    async def _predict(
        self, asks: list[Asked[WeightPart, tuple[Ask, TextEmbedding]]]
    ) -> list[Loaded | AdapterError]:
        return await asyncio.to_thread(each_by_its_part, asks, WeightPart.predict)

    @refusing
    async def files(self, model: Model, name: str) -> AdapterFiles:
        """In PEFT's format, under the name that holds on to this model; raises as `load`."""
        loaded = await self._load(model, name)
        about = dict(loaded.about)
        if not name.startswith(FINETUNED):
            ask = ask_of(name, loaded.model)
            name, about = name_of(ask, loaded.model), {k: str(v) for k, v in vars(ask).items()}
        part = await self.held.of(model)
        return await asyncio.to_thread(part.files, loaded.adapter, name, about)


def warmed(config: Config, run: RunDir) -> WeightPart:
    """A damaged run is found now, and the first client does not wait for first-call costs."""
    part = WeightPart(config, run)
    dim = part.generator.config.text_dim
    warm = TextEmbedding(torch.zeros(2, dim), torch.zeros(dim))
    (made,) = part.predict([(Ask("", 0, config.adapt.t, part.decoder.steps), warm)])
    if isinstance(made, AdapterError):
        raise made
    return part


class Slot:
    """A merged adapter until its model is dropped: what Serve keeps cannot be taken from it."""

    def __init__(self, key: str, merged: Merged) -> None:
        self.key = key
        self.merged: Merged | None = merged


class Translator(Holding[TranslatorPart]):
    """Picture + name of an adapter → picture; keeps the last adapters merged."""

    def __init__(self, given: dict[str, Any], table: Table, weights: Any) -> None:
        c = config_tree.from_dict(given)
        _own_share(c.serve.translator)
        self.weights = weights
        self.slots: WeakSet[Slot] = WeakSet()
        self.asked: dict[str, Model] = {}
        self.held = Held(TranslatorPart, c)
        self.held.load_all(current(table).models)
        _set_batch(self._translate, c.serve.translator)

    async def check_health(self) -> None:
        for part in list(self.held.parts.values())[:1]:
            torch.zeros(1, device=part.device).add(1).item()

    async def keep(self, models: Sequence[Model]) -> None:
        wanted = {model.key for model in models}
        for slot in self.slots:
            if slot.key not in wanted:
                slot.merged = None
        await super().keep(models)

    async def merge(self, model: Model, name: str) -> Merged:
        loaded = await answered(lambda: self.weights.load.remote(model, name))
        part = await self.held.of(model)
        return await asyncio.to_thread(part.merge, loaded)

    async def slot(self, place: str) -> Slot:
        """place: `place_of` a model and a name. Not kept; see `translator_class`."""
        key, _, name = place.partition("/")
        slot = Slot(key, await self.merge(self.asked[key], name))
        self.slots.add(slot)
        return slot

    async def merged(self, model: Model, name: str) -> Merged:
        self.asked[model.key] = model
        slot = await self.slot(place_of(model, name))
        if slot.merged is None:  # its model went, and has come again
            slot.merged = await self.merge(model, name)
        return slot.merged

    @refusing
    async def translate(
        self, model: Model, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, list[str]]:
        """Edit uint8 [H, W, 3]; also the adapters' full names. Raises as Weights.load."""
        part = await self.held.of(model)
        # one after the other: what Serve keeps of adapters counts those that are being loaded, too
        merged = [(await self.merged(model, n))._replace(strength=strength) for n, strength in mix]
        ask: Any = Asked(part, (picture, merged))
        made: Any = await in_one_batch(self._translate(ask))
        return made, [_full(name, part.model) for name, _ in mix]

    @serve.batch
    async def _translate(
        self, asks: list[Asked[TranslatorPart, tuple[np.ndarray, Sequence[Merged]]]]
    ) -> list[np.ndarray]:
        return await asyncio.to_thread(each_by_its_part, asks, TranslatorPart.translate)


def _full(name: str, model: str) -> str:
    return name if name.startswith(FINETUNED) else name_of(ask_of(name, model), model)


def translator_class(room: int) -> type[Translator]:
    """A Translator that keeps `room` adapters: Serve's decorator wants to be told at once."""

    class Keeping(Translator):
        @serve.multiplexed(max_num_models_per_replica=room)
        async def slot(self, place: str) -> Slot:
            return await super().slot(place)

    return Keeping
