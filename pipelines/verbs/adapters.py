"""`adapters run_dir=RUN`: what adapters a run has."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pipelines.config.error import ConfigError
from pipelines.presentation.words import duration
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import FOLDER as ADAPTED
from pipelines.stages.adapter_metrics import FOLDER as COLLECTED
from pipelines.stages.adapter_metrics import all_metrics, collected
from pipelines.stages.concepts import load_concepts
from pipelines.use.adapter_names import FINETUNED
from pipelines.use.finetune_jobs import JOBS, status, stored
from pipelines.use.finetune_request import FINISHED

KINDS = ("collected", "held-out", "service")


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    kinds = given.get("of", "")
    if kinds and kinds not in KINDS:
        raise ConfigError(f"adapters: of={kinds}: must be one of {', '.join(KINDS)}")
    run_dir = RunDir(given["run_dir"])
    rows = [row for row in rows_of(run_dir) if kinds in ("", row["kind"])]
    if "--json" in flags:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    now = time.time()
    for row in rows:
        l1 = "" if row["l1"] is None else f"L1 {row['l1']:.3f}"
        age = "" if row["accepted"] is None else f"{duration(now - row['accepted'])} ago"
        step = f"step {row['step']}"
        print(
            f"{row['kind']:<10} {step:<10} {l1:<9} {row['text']:<40} {row['where']}  {age}".rstrip()
        )
    if not rows:
        print(f"no adapters in {run_dir.uri}")
    return 0


def rows_of(run_dir: RunDir) -> Iterator[dict[str, Any]]:
    """kind, text, step, l1 on validation pictures (None: not scored), where, accepted."""
    if not run_dir.exists("concepts.parquet"):
        raise ConfigError(f"{run_dir.uri} holds no run: it has no concepts.parquet")
    texts = {c.concept_id: c.text for c in load_concepts(run_dir)}
    listed = run_dir.listing(COLLECTED)
    for concept_id, told in all_metrics(run_dir, collected(listed), listed).items():
        folder = f"{COLLECTED}/{concept_id}"
        yield _row("collected", texts[concept_id], told["steps"], told["l1"], folder)
    for name in run_dir.files(ADAPTED):
        parts = name.split("/")
        if name.endswith("/adapter_config.json") and parts[-2].startswith("step-"):
            step, folder = int(parts[-2].removeprefix("step-")), name.rpartition("/")[0]
            yield _row("held-out", texts[parts[1]], step, None, folder)
    for accepted, job in stored(run_dir):
        told = status(run_dir, job) or {}
        if told.get("status") == FINISHED:
            row = _row("service", told["concept"], told["step"], told["l1_after"], f"{JOBS}/{job}")
            yield {**row, "name": FINETUNED + job, "accepted": accepted}


def _row(kind: str, text: str, step: int, l1: float | None, where: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": text,
        "step": step,
        "l1": l1,
        "where": where,
        "name": "",
        "accepted": None,
    }
