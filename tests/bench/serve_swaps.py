"""Twenty changes of what is served, under load: `python -m tests.bench.serve_swaps a=RUN b=RUN`.

A service of two runs on a local Ray; clients translate with both while the second one changes
between two run directories. Counts the answers, and takes the seconds of each change and the
resident memory of every part before, after each fifth and after the last. Writes
tests/bench/results/serve_swaps.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.local import free_port
from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.session import ray_session
from pipelines.serve.api_keys import ADMINS
from pipelines.serve.command import start
from tests.pipelines.serve.clients import Load, copies

RESULT = Path(__file__).parent / "results" / "serve_swaps.json"
SWAPS, KEY = 20, "the administrator's key"
PARTS = ("Api", "Runs", "Text", "Weights", "Translator", "Finetunes")


def memory() -> dict[str, int]:
    """MiB resident, by part."""
    return {p: sum(psutil.Process(i).memory_info().rss for i in copies(p)) >> 20 for p in PARTS}


def main(words: list[str]) -> int:
    where = dict(word.partition("=")[::2] for word in words)
    os.environ[ADMINS] = KEY
    runs = json.dumps({"first": where["a"], "second": where["a"]})
    given = load_config([f"runs={runs}", f"serve.port={free_port()}"])
    with ray_session(given):
        url = start(given)

        def swap(number: int) -> float:
            begun = time.perf_counter()
            reply = httpx.post(
                f"{url}/v1/runs/second",
                json={"run_dir": where["a" if number % 2 else "b"]},
                headers={"X-API-Key": KEY},
                timeout=300,
            )
            reply.raise_for_status()
            return round(time.perf_counter() - begun, 2)

        with Load(url, 2) as first, Load(url, 2, "second") as second:
            first.answered(50)
            second.answered(50)
            points: list[dict[str, Any]] = [{"swaps": 0, "mib": memory()}]
            seconds = []
            for number in range(SWAPS):
                seconds.append(swap(number))
                print(f"{number + 1}: {seconds[-1]} s", flush=True)
                if not (number + 1) % 5:
                    points.append({"swaps": number + 1, "mib": memory()})
            second.answered(20)
        time.sleep(given.serve.timeout_s + 5)  # what late requests had loaded is dropped
        points.append({"swaps": SWAPS, "a minute later": True, "mib": memory()})
    answers = {str(k): v for k, v in (first.statuses + second.statuses).items()}
    result = {"answers": answers, "seconds": seconds, "memory": points, "machine": machine()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
