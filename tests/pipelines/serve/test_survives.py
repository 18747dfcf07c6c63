"""The service under load while its parts die or are replaced: only 503s, and nothing lost."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from cluster.local import free_port
from modeling.images import encode_png
from pipelines.runtime.run_dir import RunDir
from pipelines.serve import command as serve
from pipelines.stages.concepts import load_concepts
from tests.pipelines.serve.test_serve import finished_job, make_run, told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("survives") / "run")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def url(run: RunDir, port: int) -> Iterator[str]:
    import ray
    from ray import serve as ray_serve

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        given = told(run, f"serve.port={port}", "serve.translator.least=2")
        given.serve.translator.most = 2
        yield serve.start(serve.saved_config(run, given), run)
    finally:
        ray_serve.shutdown()
        ray.shutdown()


class Load:
    """Clients that ask until the block ends; `statuses` counts their answers."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.url, self.statuses, self.over = url, Counter[Any](), threading.Event()
        self.picture = encode_png(np.zeros((32, 32, 3), dtype=np.uint8))
        self.threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, client: int) -> None:
        number = 0
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.over.is_set():
                number += 1
                fields = {"concept": f"concept {number % 5}", "seed": str(client)}
                try:
                    reply = http.post(
                        "/v1/translate", data=fields, files={"image": ("x", self.picture)}
                    )
                    told = "" if reply.status_code in (200, 503) else reply.text[:300]
                    self.statuses[f"{reply.status_code} {told}" if told else reply.status_code] += 1
                except httpx.HTTPError as error:
                    self.statuses[f"{type(error).__name__}: {error}"] += 1

    def answered(self, more: int) -> None:
        """Wait until so many more requests have been answered well."""
        wanted, limit = self.statuses[200] + more, time.monotonic() + 60
        while self.statuses[200] < wanted:
            assert time.monotonic() < limit, self.statuses
            time.sleep(0.05)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        self.answered(5)
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def copies(part: str) -> set[int]:
    """Process ids of a deployment's copies, of the service that this process started."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            words, status = process.cmdline() or [""], process.status()
        except psutil.NoSuchProcess:
            continue
        name = re.match(r"ray::ServeReplica:[^:]*:(\w+)", words[0])
        if name and name[1] == part and status != "zombie":
            found.add(process.pid)
    return found


def replaced(part: str, old: set[int], count: int) -> None:
    limit = time.monotonic() + 90
    while len(copies(part) - old) < count:
        assert time.monotonic() < limit, (part, old, copies(part))
        time.sleep(0.1)


def test_a_killed_copy_of_any_part_costs_no_request(url: str) -> None:
    with Load(url) as load:
        for part in ("Translator", "Weights", "Text", "Api"):
            before = copies(part)
            assert before, part
            victim = next(iter(before))
            os.kill(victim, signal.SIGKILL)
            replaced(part, before, 1)
            load.answered(20)
    assert set(load.statuses) <= {200, 503}, load.statuses


def test_a_rolling_update_costs_no_request(url: str, run: RunDir, port: int) -> None:
    before = copies("Translator")
    with Load(url) as load:
        changed = told(run, f"serve.port={port}", "serve.cache=7", "serve.max_text=77")
        changed.serve.translator.least = changed.serve.translator.most = 2
        assert serve.start(serve.saved_config(run, changed), run) == url
        replaced("Translator", before, 2)
        load.answered(30)
    assert set(load.statuses) <= {200, 503}, load.statuses
    body = {"concept": "x" * 78}
    assert httpx.post(f"{url}/v1/adapters", json=body, timeout=60).status_code == 422


def test_a_fine_tune_outlives_the_copy_that_took_it_in(url: str, run: RunDir) -> None:
    concept = next(c.text for c in load_concepts(run) if c.families == ("background",))
    fields = {"concept": concept, "editor": "avatar", "images": 8, "train_steps": 200}
    first, second = (httpx.post(f"{url}/v1/finetunes", data=fields, timeout=60) for _ in range(2))
    (manager,) = copies("Finetunes")
    os.kill(manager, signal.SIGKILL)
    replaced("Finetunes", {manager}, 1)
    made = []
    for reply in (first, second):
        job = finished_job(url, reply)
        assert job["status"] == "finished", job
        made.append(httpx.get(f"{url}/v1/adapters/{job['adapter']}?format=zip", timeout=60).content)
    # the one that was begun twice is what it would have been
    weights = [Path(run.path(f"served/finetunes/{r.json()['id']}")) for r in (first, second)]
    a, b = ((w / "result.json").read_text() for w in weights)
    assert all(k in a and k in b for k in ("l1_before", "l1_after"))
    assert len(made[0]) == len(made[1])


def test_clients_that_go_free_what_they_waited_for(url: str, run: RunDir, port: int) -> None:
    """Adapters are predicted in batches that wait long for more: nobody who left is in one."""
    before = copies("Api")
    changed = told(run, f"serve.port={port}", "serve.weights.wait_ms=40000", "serve.max_text=99")
    assert serve.start(serve.saved_config(run, changed), run) == url
    replaced("Api", before, 1)
    limit = time.monotonic() + 60
    while copies("Api") & before:
        assert time.monotonic() < limit
        time.sleep(0.2)
    begun = time.monotonic()

    def leave(seed: int) -> None:
        body = {"concept": "left behind", "seed": seed}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/adapters", json=body, timeout=2.0)

    clients = [threading.Thread(target=leave, args=(seed,)) for seed in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    def told_of(metric: str) -> float:
        text = httpx.get(f"{url}/metrics", timeout=60).text
        values = re.findall(rf"^denoised_weights_{metric} (\S+)$", text, re.M)
        return sum(map(float, values))

    gone = 'requests_total\\{copy="[^"]*",method="POST",route="/v1/adapters",status="499"\\}'
    while told_of(gone) < 6 or told_of(r"requests_ongoing\{[^}]*\}") > 1:  # the question itself
        assert time.monotonic() < begun + 30, httpx.get(f"{url}/metrics", timeout=60).text
        time.sleep(0.2)
