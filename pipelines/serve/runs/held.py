"""The parts of several models in one process: loaded when first asked for, dropped when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.runs.served import Model
from pipelines.serve.shared_work import SharedWork
from pipelines.use.adapter_names import OtherModelError
from pipelines.use.saved_run import digests, saved_config

Part = TypeVar("Part")


class Held(Generic[Part]):
    """A part of each model, such as its weight generator.

    Whoever has one goes on with it when it has been dropped: it is freed when the last one ends.
    """

    def __init__(self, make: Callable[[Config, RunDir], Part], given: Config) -> None:
        """make: of a run's own configuration; given: the service's, with serve.* and cluster.*."""
        self.make, self.given = make, given
        self.parts: dict[str, Part] = {}
        self.loading = SharedWork[Part]()

    def load(self, model: Model) -> Part:
        """Load it here and now.

        OtherModelError if the run was made again since its model had this digest; ArtifactError,
        StageError, ConfigError; and what `make` raises.
        """
        run = RunDir(model.uri)
        config = saved_config(run, self.given)
        found = digests(run)["model"]
        if found != model.digest:
            raise OtherModelError(f"{run.uri} was made again since it was deployed: deploy it anew")
        self.parts[model.key] = part = self.make(config, run)
        return part

    def load_all(self, models: Iterable[Model]) -> None:
        """Load those that can be; raises as `load` where none can."""
        failed: list[Exception] = []
        for model in models:
            try:
                self.load(model)
            except Exception as error:  # the other runs' clients go on
                log(f"serve: {model.uri}: {type(error).__name__}: {error}")
                failed.append(error)
        if failed and not self.parts:
            raise failed[0]

    async def of(self, model: Model) -> Part:
        """Loaded in a thread if it is not there; raises as `load`."""
        if model.key in self.parts:
            return self.parts[model.key]
        return await self.loading.of(model.key, lambda: asyncio.to_thread(self.load, model))

    def keep(self, models: Iterable[Model]) -> list[str]:
        """Drop the parts of all others; their keys."""
        wanted = {model.key for model in models}
        gone = [key for key in self.parts if key not in wanted]
        for key in gone:
            del self.parts[key]
        return gone
