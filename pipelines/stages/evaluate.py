"""Stage `evaluate`: the prediction against every control, at equal n, along the fine-tune.

Every method starts from its own adapter and takes the same steps on the same images from the same
discriminator (modeling/targets/adapter_training.py); they differ in the start alone. Scored on
images that no training saw: fresh avatars, or the test split of a folder.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import actors_threads
from pipelines.runtime.stage_graph import record_errors
from pipelines.stages.controls import write_controls
from pipelines.stages.evaluating import EvaluateConcept
from pipelines.stages.evaluation_tables import FOLDER, SCHEMAS, load_rows
from pipelines.stages.judging import features_of
from pipelines.stages.resemblance import COLLECTED, find_nearest, load_nearest


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    done = [f for f in run_dir.files("adapted") if f.endswith("/timings.json")]
    ids = [f.split("/")[1] for f in done]
    todo = [i for i in ids if not run_dir.exists(f"{FOLDER}/concepts/{i}.rows.parquet")]
    progress = Progress("evaluate", len(ids), "concepts", len(ids) - len(todo))
    bad = []
    with actors_threads(config):
        write_controls(run_dir, FOLDER, ids, config.evaluate.controls)
        find_nearest(config, run_dir, ids)
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    for row in map_actors(config, EvaluateConcept, arguments, [{"concept_id": i} for i in todo]):
        if row["error"]:
            bad.append({"key": row["concept_id"], "reason": row["error"]})
        progress.add(bad=bool(row["error"]))
    record_errors(config, run_dir, "evaluate", bad, len(ids))
    tables = {
        kind: pa.concat_tables(
            run_dir.read_table(f"{FOLDER}/concepts/{i}.{kind}.parquet") for i in ids
        )
        for kind in SCHEMAS
    }
    for kind, table in tables.items():
        run_dir.write_table(f"{FOLDER}/{kind}.parquet", table)
    about = {
        "features": features_of(config).description if config.evaluate.kid else "",
        "training_gap": training_gap(run_dir),
    }
    run_dir.write(f"{FOLDER}/about.json", json.dumps(about).encode())
    summary = summarise(load_rows(run_dir))
    for line in summary:
        log(
            f"evaluate: {line['heldout']:<13} {line['method']:<21}"
            f" L1 {line['before']:.3f} → {line['after']:.3f}"
        )
    return {"concepts": len(ids), "l1": summary}


def training_gap(run_dir: RunDir) -> float | None:
    """Mean distance of a training adapter to its nearest other, as in `memory`; None for one."""
    found = load_nearest(run_dir).items()
    gaps = [near.distance for start, near in found if start.method == COLLECTED]
    return float(np.mean(gaps)) if np.isfinite(gaps).all() else None


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean L1 over concepts at each method's first and last step, per held-out set."""
    out = []
    for held in sorted({r["heldout"] for r in rows}):
        mine = [r for r in rows if r["heldout"] == held]
        for method in dict.fromkeys(r["method"] for r in mine):
            one = [r for r in mine if r["method"] == method]
            first, last = min(r["step"] for r in one), max(r["step"] for r in one)
            out.append(
                {
                    "heldout": held,
                    "method": method,
                    "before": float(np.mean([r["l1"] for r in one if r["step"] == first])),
                    "after": float(np.mean([r["l1"] for r in one if r["step"] == last])),
                }
            )
    return out
