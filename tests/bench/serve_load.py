"""The service under load: `python -m tests.bench.serve_load run_dir=RUN [key=value …]`.

1, 8 and 64 clients, each asking again as soon as it has an answer, for adapters (every one another)
and for translations (by a few adapters, and by one of many); beside it the same functions called
bare, one after another, in this process; and 200 clients, more than are let in. Then 10,000
requests, with the memory of every process of the service after each thousand. At last the
translator may have two copies: how many there are while 16 clients ask, and afterwards.
Writes results/serve_load.json. Use an otherwise idle machine: the clients and the service share
its cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any

import aiohttp
import numpy as np
import psutil

from cluster.local import free_port
from modeling.editors.avatars import portrait, render
from modeling.images import encode_png
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.serve.command import APP, start
from pipelines.use.adapter_names import Ask, name_of
from pipelines.use.saved_run import saved_config
from tests.bench.demo_stages import RESULTS

CLIENTS = (1, 8, 64, 200)
UP_SECONDS, DOWN_SECONDS = 60.0, 90.0
SECONDS = 10.0
REQUESTS = 10_000
CONCEPTS = ("green hair", "a photograph tinted gold", "blue skin", "red hair, wearing grey clothes")
Call = Callable[[aiohttp.ClientSession, int], Any]


def percentiles(seconds: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}_ms": round(1000 * cut[p - 1], 2) for p in (50, 95, 99)}


def session(url: str, clients: int) -> aiohttp.ClientSession:
    """aiohttp's, not httpx's, whose own pool is the bottleneck above about 40 connections."""
    return aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=clients),
        timeout=aiohttp.ClientTimeout(total=120),
    )


async def load(url: str, call: Call, clients: int, seconds: float, numbers: Iterator[int]) -> Any:
    """Closed loop: `clients` at once for so long."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    async with session(url, clients) as client:

        async def one(until: float) -> None:
            while time.perf_counter() < until:
                begun = time.perf_counter()
                status = await call(client, next(numbers))
                statuses[status] += 1
                if status == 200:
                    taken.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(one(begun + seconds) for _ in range(clients)))
        elapsed = time.perf_counter() - begun
    return {
        "clients": clients,
        "requests_per_s": round(len(taken) / elapsed, 1),
        **percentiles(taken),
        "statuses": dict(statuses),
    }


def bare(config: Any, run: RunDir, picture: np.ndarray) -> dict[str, Any]:
    """The same work by plain calls, one request at a time and eight at a time."""
    from pipelines.use.parts import Loaded, TextPart, TranslatorPart, WeightPart

    text, weights, translator = (
        TextPart(config, run),
        WeightPart(config, run, "cpu"),
        TranslatorPart(config, run, "cpu"),
    )
    numbers = count()
    t, steps = config.adapt.t, 1

    def adapters(n: int) -> None:
        asks = [Ask(CONCEPTS[i % len(CONCEPTS)], i, t, steps) for i in islice(numbers, n)]
        embeddings = text.encode([a.concept for a in asks])
        made = weights.predict(list(zip(asks, embeddings, strict=True)))
        for ask, loaded in zip(asks, made, strict=True):
            assert isinstance(loaded, Loaded)
            weights.files(loaded.adapter, name_of(ask, ""), {})

    ask = Ask(CONCEPTS[0], 0, t, steps)
    (loaded,) = weights.predict([(ask, text.encode([ask.concept])[0])])
    assert isinstance(loaded, Loaded)
    merged = translator.merge(loaded)

    def translations(n: int) -> None:
        for made in translator.translate([(picture, [merged])] * n):
            encode_png(made)

    out = {}
    for name, work in (("adapters", adapters), ("translate", translations)):
        for n in (1, 8):
            work(n)
            taken = []
            until = time.perf_counter() + SECONDS / 2
            while time.perf_counter() < until:
                begun = time.perf_counter()
                work(n)
                taken.append((time.perf_counter() - begun) / n)
            out[f"{name}, {n} at a time"] = {
                "requests_per_s": round(1 / statistics.mean(taken), 1),
                **percentiles(taken),
            }
    return out


def memory() -> dict[str, float]:
    """MiB (unique set) of each process of the service; those of one part are added up."""
    out: Counter[str] = Counter()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        found = re.match(r"ray::(?:ServeReplica:[^:]*:(\w+)|(Proxy\w*|ServeController))", words[0])
        if found:
            name = found[1] or found[2]
            try:
                out[name] += process.memory_full_info().uss / 2**20
            except psutil.NoSuchProcess:
                continue
    return {k: round(v, 1) for k, v in sorted(out.items())}


def main(words: list[str]) -> int:
    given = load_config([f"serve.port={free_port()}", *words])
    run = RunDir(given.run_dir)
    config = saved_config(run, given)
    size = config.images.size
    png = encode_png(render(portrait(10**6), size))
    before = os.getloadavg()[0]
    result: dict[str, Any] = {
        "machine": machine(),
        "load_before": before,
        "image_size": size,
        "bare": bare(config, run, render(portrait(10**6), size)),
    }
    numbers = count()

    async def adapter(client: aiohttp.ClientSession, i: int) -> int:
        body = {"concept": CONCEPTS[i % len(CONCEPTS)], "seed": i}
        async with client.post("/v1/adapters", json=body) as reply:
            await reply.read()
            return reply.status

    def translation(seeds: int) -> Call:
        async def call(client: aiohttp.ClientSession, i: int) -> int:
            form = aiohttp.FormData({"concept": CONCEPTS[i % len(CONCEPTS)]})
            form.add_field("seed", str(i // len(CONCEPTS) % seeds))
            form.add_field("image", png, filename="x")
            async with client.post("/v1/translate", data=form) as reply:
                await reply.read()
                return reply.status

        return call

    kinds = {
        "adapters, all different": adapter,
        "translate, 4 adapters": translation(1),
        "translate, 400 adapters": translation(100),
    }
    with ray_session(config):
        url = start(config)
        result["served"] = {}
        for name, call in kinds.items():
            asyncio.run(load(url, call, 4, 2.0, numbers))  # warm
            result["served"][name] = [
                asyncio.run(load(url, call, n, SECONDS, numbers)) for n in CLIENTS
            ]
            print(name, json.dumps(result["served"][name]), flush=True)
        result["memory"] = asyncio.run(soak(url, adapter, translation(100)))
        result["autoscaling"] = autoscaling(config, translation(1), numbers)
    path = RESULTS / "serve_load.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")
    return 0


def autoscaling(config: Config, call: Call, numbers: Iterator[int]) -> dict[str, Any]:
    """Copies of the translator under load and after it; the service is deployed anew for it."""
    from ray import serve as ray_serve

    scaled = replace(config.serve.translator, most=2, batch=2, up_s=5.0, down_s=10.0)
    changed = replace(config, serve=replace(config.serve, translator=scaled))
    url = start(changed)
    begun, points, over = time.monotonic(), [], threading.Event()

    def watch() -> None:
        while not over.wait(2.0):
            states = ray_serve.status().applications[APP].deployments["Translator"]
            copies = states.replica_states.get("RUNNING", 0)
            points.append({"seconds": round(time.monotonic() - begun, 1), "copies": copies})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        under = asyncio.run(load(url, call, 16, UP_SECONDS, numbers))
        time.sleep(DOWN_SECONDS)
    finally:
        over.set()
        watcher.join()
    changes = [p for i, p in enumerate(points) if not i or p["copies"] != points[i - 1]["copies"]]
    return {"load": under, "load_seconds": UP_SECONDS, "changes": changes}


async def soak(url: str, *calls: Call) -> dict[str, Any]:
    """Memory of the service's processes over many requests of several kinds, eight at once."""
    numbers, points = count(), []
    statuses: Counter[int] = Counter()
    async with session(url, 8) as client:
        for part in range(10):
            left = iter(range(REQUESTS // 10))

            async def one(left: Iterator[int] = left) -> None:
                for _ in left:
                    i = next(numbers)
                    statuses[await calls[i % len(calls)](client, i)] += 1

            await asyncio.gather(*(one() for _ in range(8)))
            points.append({"requests": (part + 1) * REQUESTS // 10, "mib": memory()})
            print(points[-1], flush=True)
    return {"statuses": dict(statuses), "points": points}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
