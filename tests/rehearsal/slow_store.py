"""A store as far away as a region's: each request waits, is counted, or finds nobody.

Bytes are passed on as they are, so that any client and any server may be at its ends.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

REQUEST = re.compile(rb"(GET|PUT|POST|HEAD|DELETE) /")
PIECE = 2**18


class SlowStore:
    """requests: by method; bytes_in, bytes_out: of the store's side."""

    def __init__(self, port: int, delay: float) -> None:
        """port: where the store is; delay: seconds before a request goes on to it."""
        self.port, self.delay, self.reachable = port, delay, True
        self.requests: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0
        self.address = ""

    def told(self) -> dict[str, int]:
        """What has been counted since the last time."""
        out = {
            "requests": sum(self.requests.values()),
            **{k.lower(): n for k, n in sorted(self.requests.items())},
            "mb_in": round(self.bytes_in / 1e6),
            "mb_out": round(self.bytes_out / 1e6),
        }
        self.requests.clear()
        self.bytes_in = self.bytes_out = 0
        return out

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.reachable:
            writer.transport.abort()
            return
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.port, limit=PIECE)
            ways = (self.ask(reader, ours), self.answer(theirs, writer))
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ours.close()
        writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            if found := REQUEST.match(data):
                self.requests[found[1].decode()] += 1
                await asyncio.sleep(self.delay)
            if not self.reachable:
                return
            self.bytes_in += len(data)
            writer.write(data)
            await writer.drain()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            if not self.reachable:
                return
            self.bytes_out += len(data)
            writer.write(data)
            await writer.drain()


@contextmanager
def slow_store(port: int, delay: float) -> Iterator[SlowStore]:
    """In front of a store on this machine, in a thread."""
    store, loop = SlowStore(port, delay), asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(store.meet, "127.0.0.1", 0, limit=PIECE, backlog=1024)

    async def close() -> None:
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    server = loop.run_until_complete(listen())
    store.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
