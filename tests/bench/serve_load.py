"""The service under load: `python -m tests.bench.serve_load run_dir=RUN [key=value …]`.

1, 8 and 64 clients, each asking again as soon as it has an answer, for adapters (every one another)
and for translations (by a few adapters, and by one of many); beside it the same functions called
bare, one after another, in this process. Then 10,000 requests, with the memory of every process of
the service after each thousand. Writes results/serve_load.json. Use an otherwise idle machine: the
clients and the service share its cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import httpx
import numpy as np
import psutil

from cluster.local import free_port
from modeling.avatars import portrait, render
from modeling.images import encode_png
from pipelines import config as configuration
from pipelines import serve
from pipelines.adapter_ids import Ask, name_of
from pipelines.artifacts import RunDir
from pipelines.machine import machine
from pipelines.session import ray_session
from tests.bench.demo_stages import RESULTS

CLIENTS = (1, 8, 64)
SECONDS = 10.0
REQUESTS = 10_000
CONCEPTS = ("green hair", "a photograph tinted gold", "blue skin", "red hair, wearing grey clothes")
Call = Callable[[httpx.AsyncClient, int], Any]


def percentiles(seconds: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}_ms": round(1000 * cut[p - 1], 2) for p in (50, 95, 99)}


async def load(url: str, call: Call, clients: int, seconds: float, numbers: Iterator[int]) -> Any:
    """Closed loop: `clients` at once for so long."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def one(until: float) -> None:
            while time.perf_counter() < until:
                begun = time.perf_counter()
                reply = await call(client, next(numbers))
                statuses[reply.status_code] += 1
                if reply.status_code == 200:
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
    from pipelines.serving import Loaded, TextPart, TranslatorPart, WeightPart

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
        for made in translator.translate([(picture, merged)] * n):
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
    given = configuration.load_config([f"serve.port={free_port()}", *words])
    run = RunDir(given.run_dir)
    config = serve.saved_config(run, given)
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

    async def adapter(client: httpx.AsyncClient, i: int) -> httpx.Response:
        body = {"concept": CONCEPTS[i % len(CONCEPTS)], "seed": i}
        return await client.post("/v1/adapters", json=body)

    def translation(adapters: int) -> Call:
        async def call(client: httpx.AsyncClient, i: int) -> httpx.Response:
            fields = {"concept": CONCEPTS[i % len(CONCEPTS)], "seed": str(i % adapters)}
            return await client.post("/v1/translate", data=fields, files={"image": ("x", png)})

        return call

    kinds = {
        "adapters, all different": adapter,
        "translate, 4 adapters": translation(1),
        "translate, 400 adapters": translation(100),
    }
    with ray_session(config):
        url = serve.start(config, run)
        result["served"] = {}
        for name, call in kinds.items():
            asyncio.run(load(url, call, 4, 2.0, numbers))  # warm
            result["served"][name] = [
                asyncio.run(load(url, call, n, SECONDS, numbers)) for n in CLIENTS
            ]
            print(name, json.dumps(result["served"][name]), flush=True)
        result["memory"] = asyncio.run(soak(url, adapter, translation(100)))
    path = RESULTS / "serve_load.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")
    return 0


async def soak(url: str, *calls: Call) -> dict[str, Any]:
    """Memory of the service's processes over many requests of several kinds, eight at once."""
    numbers, points = count(), []
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for part in range(10):
            left = iter(range(REQUESTS // 10))

            async def one(left: Iterator[int] = left) -> None:
                for _ in left:
                    i = next(numbers)
                    statuses[(await calls[i % len(calls)](client, i)).status_code] += 1

            await asyncio.gather(*(one() for _ in range(8)))
            points.append({"requests": (part + 1) * REQUESTS // 10, "mib": memory()})
            print(points[-1], flush=True)
    return {"statuses": dict(statuses), "points": points}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
