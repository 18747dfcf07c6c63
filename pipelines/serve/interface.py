"""What the routes and the models behind them agree on. No Ray and no torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.serve.runs.served import Served, Table
from pipelines.use.answers import AdapterFiles, Known, Near
from pipelines.use.finetune_request import Request


class Backend(Protocol):
    """What the routes need, wherever it runs.

    Names of adapters: pipelines/use/adapter_names.py. Methods raise UnknownAdapterError,
    OtherModelError, FinetuneError and BusyError.
    """

    async def about(self) -> Mapping[str, Any]:
        """What is being served."""

    async def files(self, name: str) -> AdapterFiles: ...

    async def translate(
        self, picture: np.ndarray, mix: Sequence[tuple[str, float]]
    ) -> tuple[np.ndarray, Sequence[str]]:
        """Edited uint8 [H, W, 3] by adapters with their strengths, and the adapters' full names."""

    async def containing(self, words: str, count: int) -> Sequence[Known]:
        """Training concepts in whose text this is."""

    async def nearest(self, text: str, count: int) -> Sequence[Near]:
        """The nearest training concepts, the nearest first."""

    async def submit(
        self, job: str, request: Request, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """job: a new name, 16 hexadecimal digits."""

    async def status(self, job: str) -> dict[str, Any]: ...

    async def cancel(self, job: str) -> dict[str, Any]: ...


class Runs(Protocol):
    """Which runs are served, wherever they run."""

    table: Table
    """As it was last looked at."""

    async def now(self) -> Table: ...

    def backend(self, served: Served) -> Backend: ...

    async def serve(self, name: str, uri: str) -> Served:
        """Serve a run under a name from now on; uri "": the one of this name, as it is now.

        RunRefusedError, UnknownRunError.
        """

    async def remove(self, name: str) -> None:
        """RunRefusedError for the first; UnknownRunError."""
