"""Rows a second that the driver hands out: `python -m tests.rehearsal.feeding rows=N actors=64`.

Work is replaced by waiting (wait=0.05 seconds a row, which is no work of any stage): as many actors
as are to be fed, of which each holds a small share of a core. Writes tests/rehearsal/feeding.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from pipelines.config.load import load_config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.machine import machine
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_graph import provenance

RESULT = Path(__file__).parent / "feeding.json"
SHARES = 10
"""Of the rows, each of which is timed."""


class Wait:
    """Ray Data actor that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds * len(batch["row"]))
        return {"row": batch["row"]}


def main(words: list[str]) -> int:
    own = dict(word.partition("=")[::2] for word in words)
    count, actors = int(own["rows"]), int(own.get("actors", 64))
    wait = float(own.get("wait", 0.05))
    config = load_config(["preset=tiny", "run_dir=unused"])
    rates, memory = [], psutil.Process().memory_info().rss
    with ray_session(config):
        begun = last = time.monotonic()
        rows = [{"row": i} for i in range(count)]
        made = map_actors(config, Wait, {"seconds": wait}, rows, actors=actors, cpus=1 / 64)
        for i, _ in enumerate(made, 1):
            if not i % (count // SHARES):
                now = time.monotonic()
                rates.append(round(count // SHARES / (now - last), 1))
                last = now
        seconds = time.monotonic() - begun
    result = {
        "command": "python -m tests.rehearsal.feeding " + " ".join(words),
        "rows": count,
        "actors": actors,
        "work replaced by waiting, seconds a row": wait,
        "rows a second, by tenth of the rows": rates,
        "seconds": round(seconds, 1),
        "driver_mib": (psutil.Process().memory_info().rss - memory) >> 20,
        "machine": machine(),
        "commit": provenance()["commit"],
    }
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known[f"{count} rows, {actors} actors"] = result
    RESULT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
