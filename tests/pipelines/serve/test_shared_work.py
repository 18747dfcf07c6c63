"""Work shared by requests: once for all of them, and not for nobody."""

from __future__ import annotations

import asyncio

import pytest

from pipelines.serve.shared_work import SharedWork


class Bench:
    """Work that ends when it is told to, and notes what becomes of it."""

    def __init__(self) -> None:
        self.shared = SharedWork[int]()
        self.end = asyncio.Event()
        self.begun, self.stopped = 0, 0
        self.error: Exception | None = None

    async def work(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if self.error:
            raise self.error
        return number

    async def ask(self, count: int) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self.shared.of("a", self.work)) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks


def test_it_is_done_once_for_all_and_again_for_who_comes_later() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.ask(5)
        bench.end.set()
        assert await asyncio.gather(*tasks) == [1] * 5
        assert await asyncio.gather(*await bench.ask(2)) == [2, 2]
        assert not bench.shared.tasks and not bench.shared.waiting and not bench.stopped

    asyncio.run(main())


@pytest.mark.parametrize("leave", [1, 4, 5])
def test_it_stops_when_the_last_has_gone(leave: int) -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.ask(5)
        for task in tasks[:leave]:
            task.cancel()
        await asyncio.gather(*tasks[:leave], return_exceptions=True)
        await asyncio.sleep(0)
        assert bench.stopped == (leave == 5)
        bench.end.set()
        assert await asyncio.gather(*tasks[leave:]) == [1] * (5 - leave)
        # stopped work is no answer for who comes after it
        assert await asyncio.gather(*await bench.ask(1)) == [2]

    asyncio.run(main())


def test_all_are_told_why_it_failed() -> None:
    async def main() -> None:
        bench = Bench()
        bench.error = ValueError("why")
        tasks = await bench.ask(3)
        bench.end.set()
        for told in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(told, ValueError)
        assert not bench.shared.tasks

    asyncio.run(main())
