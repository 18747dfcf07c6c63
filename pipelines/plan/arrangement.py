"""How actors should share a machine that collects adapters: tried, with all of them at work.

What one process does alone says little of several: they share a GPU, or memory and its bus. Each
arrangement is as many processes as it has actors, each with its own networks, which train random
concepts for the same seconds.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from queue import Empty
from threading import BrokenBarrierError
from typing import Any

import torch

from modeling.fitting import out_of_memory
from modeling.precision import use
from modeling.targets.recipe import collection_recipe
from pipelines.config.schema import Config
from pipelines.plan.shapes import Shapes
from pipelines.runtime.log import log
from pipelines.runtime.machine import cores, memory_bytes, share_gpu
from pipelines.runtime.pool import Machine, on_machine
from pipelines.stages.gans import concepts_at_once

SECONDS = 3.0
"""Of training, after a first call that is not counted."""
SLOW = 30.0
"""Seconds of a call after which no more concepts are tried."""
STEPS = 4
COUNTS = {"cpu": (1, 2, 4, 8), "cuda": (1, 4, 16, 64)}
ON_A_GPU = (1, 2, 4)
THREADS = (1, 2, 4)
WAIT = 600.0
"""Seconds for the slowest of the processes to be ready."""


@dataclass(frozen=True)
class Arrangement:
    """Actors of one machine (of one of its GPUs), each with so many threads and concepts."""

    actors: int
    threads: int
    concepts: int
    images_per_second: float
    """Of all actors together; 0 where one of them ran out of memory."""


def arrangements(config: Config, seconds: float = SECONDS) -> list[Arrangement]:
    """All that were tried, the fastest first; nothing where the stage works on GPUs not here."""
    gpu = bool(config.cluster.gpus_per_actor)
    if gpu and not torch.cuda.is_available():
        return []
    gc.collect()
    if gpu:  # what the rates were measured with
        torch.cuda.empty_cache()
    found: list[Arrangement] = []
    for actors, threads in ways(config, cores()):
        counts = sorted({*COUNTS["cuda" if gpu else "cpu"], concepts_at_once(config)})
        try:
            for concepts, rate in _measured(config, actors, threads, counts, gpu, seconds):
                found.append(Arrangement(actors, threads, concepts, rate))
                log(f"plan: {_said(found[-1])}")
        except RuntimeError as error:  # the rates that were measured before are worth keeping
            log(f"plan: {actors} actors of {threads} threads not tried to the end: {error}")
    return sorted(found, key=lambda a: -a.images_per_second)


def ways(config: Config, here: int) -> list[tuple[int, int]]:
    """Actors and threads of each: of one GPU, or for the cores that there are."""
    own = max(1, int(config.cluster.cpus_per_actor))
    if config.cluster.gpus_per_actor:
        return [(actors, max(1, own // actors)) for actors in ON_A_GPU]
    threads = sorted({t for t in (*THREADS, own) if t <= here})
    if given := config.cluster.actors:
        return [(given, t) for t in threads]
    memory = memory_bytes()
    return [(on_machine(config, Machine(here, memory), 0.0, t), t) for t in threads]


def advice(config: Config, tried: list[Arrangement]) -> tuple[str, dict[str, Any]]:
    """A line that names the fastest and what the configuration has, and both as data."""
    best = tried[0]
    gpu = bool(config.cluster.gpus_per_actor)
    keys = {
        "gans.concepts_per_batch": best.concepts,
        **(
            {
                "cluster.gpus_per_actor": round(1 / best.actors, 3),
                "cluster.cpus_per_actor": best.threads,
            }
            if gpu
            else {"cluster.cpus_per_actor": best.threads}
        ),
    }
    words = " ".join(f"{k}={v}" for k, v in keys.items())
    threads = max(1, int(config.cluster.cpus_per_actor))
    there = Machine(cores(), memory_bytes())
    actors = config.cluster.actors or on_machine(config, there, 0.0, threads)
    if gpu:
        actors = round(1 / config.cluster.gpus_per_actor)
    own = (max(1, actors), threads, concepts_at_once(config))
    as_given = next((a for a in tried if (a.actors, a.threads, a.concepts) == own), None)
    line = f"the fastest collection here: {words} ({_said(best)})"
    if as_given and as_given.images_per_second:
        gain = best.images_per_second / as_given.images_per_second
        line += f"; {gain:.2f} times as fast as with the keys as they are"
    data = {"tried": [asdict(a) for a in tried], "fastest": keys}
    return line, data


def _said(a: Arrangement) -> str:
    who = f"{a.actors} actor{'s' * (a.actors > 1)} of {a.threads} thread{'s' * (a.threads > 1)}"
    what = f"{a.images_per_second:,.0f} images/s" if a.images_per_second else "out of memory"
    return f"{who}, {a.concepts} concept{'s' * (a.concepts > 1)} a batch: {what}"


def _measured(
    config: Config, actors: int, threads: int, counts: list[int], gpu: bool, seconds: float
) -> Iterator[tuple[int, float]]:
    """Each count of concepts with the images a second of all processes."""
    context = multiprocessing.get_context("spawn")
    told: Queue[tuple[float, float]] = context.Queue()
    together = context.Barrier(actors)
    processes = [
        context.Process(
            target=_actor,
            args=(config, threads, counts, gpu, seconds, together, told),
            daemon=True,
        )
        for _ in range(actors)
    ]
    for process in processes:
        process.start()
    try:
        for count in counts:
            rates, took = zip(*(_next(told, processes) for _ in processes), strict=True)
            yield count, 0.0 if 0.0 in rates else sum(rates)
            if 0.0 in rates or max(took) > SLOW:
                return
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(told: Queue[tuple[float, float]], processes: list[Any]) -> tuple[float, float]:
    """Images a second and seconds a call of one; RuntimeError if it ended without a word."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        try:
            return told.get(timeout=1.0)
        except Empty:
            if ended := [p for p in processes if p.exitcode]:
                raise RuntimeError(f"a process ended with {ended[0].exitcode}") from None
    raise RuntimeError(f"a process said nothing for {WAIT:.0f} s")


def _actor(
    config: Config,
    threads: int,
    counts: list[int],
    gpu: bool,
    seconds: float,
    together: Barrier,
    told: Queue[tuple[float, float]],
) -> None:
    """One process: for each count its images a second while all others work, too."""
    from pipelines.plan.calibration import Bench  # which is long to import

    torch.set_num_threads(threads)
    device = torch.device("cuda" if gpu else "cpu")
    use(config.precision, device)
    share_gpu(config.cluster.gpus_per_actor and 1 / together.parties)
    bench = Bench(config, Shapes(config))
    recipe = replace(collection_recipe(config.gans, STEPS), warmup=0)
    for count in counts:
        try:
            call = bench.training(device, recipe, count)
            call()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            told.put((0.0, 0.0))
            together.abort()
            return
        try:
            together.wait(WAIT)
        except BrokenBarrierError:  # another has no room
            told.put((0.0, 0.0))
            return
        begun = time.perf_counter()
        calls = 0
        while not calls or time.perf_counter() - begun < seconds:
            call()
            calls += 1
        if gpu:
            torch.cuda.synchronize()
        took = time.perf_counter() - begun
        told.put((calls * STEPS * recipe.batch * count / took, took / calls))
        with suppress(BrokenBarrierError):  # nobody begins the next count while others measure
            together.wait(WAIT)
