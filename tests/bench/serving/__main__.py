"""Floor and ceiling of the service: `python -m tests.bench.serving run_dir=RUN [peer=PYTHONPATH]`.

The same translations (upload decoded, one of four merged adapters, PNG encoded) in one run on one
machine: bare, a process for each core and no HTTP; by plain FastAPI and uvicorn, a worker for each
core; a route that does nothing behind Ray Serve's proxy; by LitServe (peer= names the folder that
it was installed to with `pip install --target`); by `denoised-weights serve`. 1, 8, 64 and 200
clients, each asking again as soon as it has an answer: answers a second, p50 and p99, processor
seconds of the server's processes for an answer, and what they hold. only=a,b: some of them, the
others stay as they are in results/serving.json. The clients share the cores: an idle machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from cluster.local import free_port
from modeling.editors.avatars import portrait, render
from modeling.images import encode_png
from pipelines.config.load import load_config
from pipelines.runtime.machine import cores, machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import provenance
from pipelines.use.saved_run import saved_config
from tests.bench.demo_stages import RESULTS
from tests.bench.serve_load import CLIENTS, load
from tests.bench.serving.work import CONCEPTS, RUN

SECONDS = 6.0
UP = 120.0
"""Seconds in which a server has to answer."""
OUT = RESULTS / "serving.json"


def servers(run_dir: str, port: int) -> dict[str, list[str]]:
    """By name: the words after the interpreter."""
    workers = str(cores())
    return {
        "plain FastAPI": [
            *("-m", "uvicorn", "tests.bench.serving.plain:app", "--workers", workers),
            *("--port", str(port), "--log-level", "warning"),
        ],
        "Ray Serve with nothing behind it": ["-m", "tests.bench.serving.nothing", str(port)],
        "LitServe": ["-m", "tests.bench.serving.peer", str(port), workers],
        "denoised-weights serve": [
            *("-m", "pipelines", "serve", f"run_dir={run_dir}", f"serve.port={port}"),
        ],
    }


class Client:
    """Asks for translations by the four adapters in turn."""

    def __init__(self, png: bytes) -> None:
        self.png = png

    async def __call__(self, client: aiohttp.ClientSession, i: int) -> int:
        form = aiohttp.FormData({"concept": CONCEPTS[i % len(CONCEPTS)]})
        form.add_field("image", self.png, filename="x.png", content_type="image/png")
        try:
            async with client.post("/v1/translate", data=form) as reply:
                await reply.read()
                return reply.status
        except aiohttp.ClientError:
            return 0


@contextmanager
def running(words: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """A server in a process group of its own, ended as by Ctrl-C."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


async def answers(url: str, call: Client) -> bool:
    try:
        async with aiohttp.ClientSession(url) as session:
            return await call(session, 0) == 200
    except (TimeoutError, OSError):
        return False


def held(process: psutil.Process) -> tuple[Counter[str], float]:
    """Processor seconds by what a process is, and MiB (unique set) of all that came of it."""
    seconds: Counter[str] = Counter()
    mib = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times, words = one.cpu_times(), one.cmdline() or [""]
            found = re.match(r"ray::(?:ServeReplica:[^:]*:(\w+)|(\w+))", words[0])
            name = (found[1] or found[2]) if found else one.name()
            seconds[name] += times.user + times.system
            mib += one.memory_full_info().uss / 2**20
        except psutil.Error:
            continue
    return seconds, mib


def measured(
    words: list[str], environment: dict[str, str], call: Client, log: Path, url: str
) -> Any:
    numbers = count()
    with running(words, environment, log) as process:
        until = time.monotonic() + UP
        while not asyncio.run(answers(url, call)):
            if time.monotonic() > until or not process.is_running():
                return {"failed": f"no answer within {UP:.0f} s: see its log"}
            time.sleep(0.5)
        asyncio.run(load(url, call, 8, 3.0, numbers))  # warm
        rows = []
        for clients in CLIENTS:
            before, _ = held(process)
            row = asyncio.run(load(url, call, clients, SECONDS, numbers))
            after, mib = held(process)
            answered = max(1, row["statuses"].get(200, 0))
            spent = {k: 1000 * (after[k] - before[k]) / answered for k in after}
            row["processor_ms_an_answer"] = round(sum(spent.values()), 2)
            row["of_these"] = {k: round(ms, 2) for k, ms in spent.items() if ms > 0.1}
            row["mib"] = round(mib)
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def bare(environment: dict[str, str], png: bytes) -> dict[str, float]:
    """One process, and one for each core at once."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.png").write_bytes(png)
        words = [sys.executable, "-m", "tests.bench.serving.work", f"{folder}/x.png", str(SECONDS)]
        out = {}
        for together in sorted({1, cores()}):
            processes = [
                subprocess.Popen(
                    words, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
                )
                for _ in range(together)
            ]
            rates = [float(p.communicate()[0].splitlines()[-1]) for p in processes]
            out[f"{together} process{'es' * (together > 1)}"] = round(sum(rates), 1)
    return out


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    run_dir, port = given["run_dir"], free_port()
    config = saved_config(RunDir(run_dir), load_config([f"run_dir={run_dir}"]))
    png = encode_png(render(portrait(10**6), config.images.size))
    environment = {RUN: run_dir, "OMP_NUM_THREADS": "1"}
    result = json.loads(OUT.read_text()) if OUT.exists() else {}
    only = given["only"].split(",") if "only" in given else None
    result |= {
        "command": "python -m tests.bench.serving run_dir=RUN peer=FOLDER",
        "machine": machine(),
        "commit": provenance()["commit"],
        "image_size": config.images.size,
        "load_before": os.getloadavg()[0],
    }
    if only is None or "bare" in only:
        result["bare, answers a second"] = bare(environment, png)
        print(json.dumps(result["bare, answers a second"]), flush=True)
    log = Path(tempfile.gettempdir(), "serving.log")
    for name, start in servers(run_dir, port).items():
        if (only and name not in only) or (name == "LitServe" and "peer" not in given):
            continue
        own = dict(environment)
        if name == "LitServe":
            own["PYTHONPATH"] = os.pathsep.join([given["peer"], os.environ.get("PYTHONPATH", "")])
        print(name, flush=True)
        result[name] = measured(start, own, Client(png), log, f"http://127.0.0.1:{port}")
        OUT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
