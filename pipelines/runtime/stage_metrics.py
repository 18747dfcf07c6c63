"""How far a stage is, for Prometheus: gauges of the process that counts, through Ray's exporter.

Each node of a Ray serves them with Ray's metrics, with the prefix `ray_`. Where this process is
connected to no Ray, nobody is told.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

GAUGES = {
    "done": "Units of work that are done",
    "total": "Units of work in all",
    "rate": "Units a second",
    "bad": "Units of which nothing came",
    "seconds": "Seconds that the stage has run, earlier attempts included",
    "attempts": "Times that the stage was begun",
}
PREFIX = "denoised_weights_stage_"


def publish(stage: str, unit: str, values: dict[str, float]) -> None:
    """values: of GAUGES; the others are left as they are."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    for name, value in values.items():
        _gauge(name).set(float(value), {"stage": stage, "unit": unit})


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(PREFIX + name, description=GAUGES[name], tag_keys=("stage", "unit"))
