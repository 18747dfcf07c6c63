"""`errors run_dir=RUN`: why rows of a run are bad, each reason with how often and for what."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.config.error import ConfigError
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import BY_NAME

SHOWN = 3
"""Keys beside a reason."""


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    run_dir, stage = RunDir(given["run_dir"]), given.get("stage", "")
    if stage and stage not in BY_NAME:
        raise ConfigError(f"errors: stage={stage}: must be one of {', '.join(BY_NAME)}")
    if not run_dir.exists("config.yaml"):
        raise ConfigError(f"{run_dir.uri} holds no run: it has no config.yaml")
    found = reasons(run_dir, [stage] if stage else list(BY_NAME))
    if "--json" in flags:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for row in found:
        keys = row["keys"]
        more = f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
        print(f"{row['stage']:<10} {len(keys):>7,}  {row['reason']}")
        print(f"{'':<20}{', '.join(keys[:SHOWN])}{more}")
    if not found:
        print(f"no bad rows in {run_dir.uri}")
    return 0


def reasons(run_dir: RunDir, stages: Sequence[str]) -> list[dict[str, Any]]:
    """stage, reason, keys; by stage, the most frequent reason first."""
    out = []
    for stage in stages:
        path = f"errors/{stage}.parquet"
        if not run_dir.exists(path):
            continue
        keys: dict[str, list[str]] = defaultdict(list)
        for row in run_dir.read_table(path).to_pylist():
            keys[row["reason"]].append(row["key"])
        for reason, of in sorted(keys.items(), key=lambda item: (-len(item[1]), item[0])):
            out.append({"stage": stage, "reason": reason, "keys": sorted(of)})
    return out
