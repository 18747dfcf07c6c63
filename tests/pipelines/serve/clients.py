"""Clients of a service on Ray, and what they need to know of its processes."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import psutil

from modeling.images import encode_png

PATIENCE = 300.0
"""Seconds after which something hangs. Short of that, on a busy machine it is only slow."""


def ask(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/adapters", json=body, timeout=PATIENCE)


def translate(url: str, image: bytes, **fields: Any) -> httpx.Response:
    files = {"image": ("x.png", image)}
    return httpx.post(f"{url}/v1/translate", files=files, data=fields, timeout=PATIENCE)


def finished_job(url: str, reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 202, reply.text
    where = f"{url}{reply.headers['location']}"
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        told = httpx.get(where, timeout=PATIENCE)
        job: dict[str, Any] = told.json()
        if told.status_code != 503:  # its part is being started again: "come again"
            assert told.status_code == 200, job
            if job["status"] not in ("queued", "running"):
                return job
        time.sleep(0.2)
    raise AssertionError(f"still {job}")


class Load:
    """Clients that ask until the block ends; `statuses` counts their answers."""

    def __init__(self, url: str, clients: int = 3, run: str = "") -> None:
        self.path = f"/v1/translate?run={run}" if run else "/v1/translate"
        self.url, self.statuses, self.over = url, Counter[Any](), threading.Event()
        self.picture = encode_png(np.zeros((32, 32, 3), dtype=np.uint8))
        self.threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, client: int) -> None:
        number = 0
        with httpx.Client(base_url=self.url, timeout=PATIENCE) as http:
            while not self.over.is_set():
                number += 1
                fields = {"concept": f"concept {number % 5}", "seed": str(client)}
                try:
                    reply = http.post(self.path, data=fields, files={"image": ("x", self.picture)})
                    told = "" if reply.status_code in (200, 503) else reply.text[:300]
                    self.statuses[f"{reply.status_code} {told}" if told else reply.status_code] += 1
                except httpx.HTTPError as error:
                    self.statuses[f"{type(error).__name__}: {error}"] += 1

    def answered(self, more: int) -> None:
        """Wait until so many more requests have been answered well."""
        wanted, limit = self.statuses[200] + more, time.monotonic() + PATIENCE
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
    limit = time.monotonic() + PATIENCE
    while len(copies(part) - old) < count:
        assert time.monotonic() < limit, (part, old, copies(part))
        time.sleep(0.1)
