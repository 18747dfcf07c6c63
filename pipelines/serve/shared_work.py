"""Work that several requests wait for: done once for all, and stopped when the last one goes."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """Running coroutines by name, of one event loop."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Result]] = {}
        self.waiting: Counter[str] = Counter()

    async def of(self, name: str, begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What the running work of this name gives or raises; `begin` starts it if none runs.

        A caller that is cancelled leaves it to the others; with the last one it is cancelled too.
        """
        if name not in self.tasks:
            # in no caller's context, by which Ray would cancel it with that caller's request
            self.tasks[name] = asyncio.create_task(begin(), context=contextvars.Context())
        task = self.tasks[name]
        self.waiting[name] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self.waiting[name] -= 1
            if not self.waiting[name]:
                del self.waiting[name], self.tasks[name]
                task.cancel()  # nothing happens to one that has ended
