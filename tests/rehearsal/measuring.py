"""A command of the system, run as a user runs it, with its time and its processes' memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil


class Memory:
    """Most resident memory of a process, and of any one below it, until the block ends. MiB.

    own: without pages that processes share, of libraries, mapped files and the object store.
    """

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.most: dict[str, int] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.wait(0.3):
            try:
                self._note("driver", self.process)
                for child in self.process.children(recursive=True):
                    if child.name().startswith("ray::"):
                        self._note("worker", child)
            except psutil.Error:
                continue

    def _note(self, who: str, process: psutil.Process) -> None:
        memory = process.memory_info()
        for key, size in (("mib", memory.rss), ("own_mib", memory.rss - memory.shared)):
            self.most[f"{who}_{key}"] = max(self.most.get(f"{who}_{key}", 0), size >> 20)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.thread.join()


def command(stage: str, given: list[str], log: Path) -> dict[str, Any]:
    """Run one stage as a user does; RuntimeError with its last lines if it fails."""
    begun = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", stage, *given],
            stdout=file,
            stderr=file,
            env=environment,
        )
        with Memory(process.pid) as memory:
            status = process.wait()
    if status:
        raise RuntimeError(f"{stage}: " + "\n".join(log.read_text().splitlines()[-8:]))
    seconds = round(time.monotonic() - begun, 1)
    return {"seconds": seconds, **memory.most}
