"""Stage `compare`: every method of the paper's Table 1 on held-out concepts, each at its budget.

Quality first, by a pool of actors, one job per concept and seed for all methods that adapt the base
and one for each that trains from scratch. Then one actor alone times each method, on an otherwise
idle machine; these are the seconds that are reported. Scoring, loading and drawing are in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.comparison.actor import CompareMethods
from pipelines.comparison.budgets import spent
from pipelines.comparison.fairness import check_alike
from pipelines.comparison.jobs import chosen, jobs
from pipelines.comparison.methods import E2GAN_BY_OURS, scratch_methods
from pipelines.comparison.numbers import lines, summarise
from pipelines.comparison.page import write
from pipelines.comparison.paper import differences
from pipelines.comparison.rows import FOLDER, ROWS, of_regime
from pipelines.comparison.timing import timed
from pipelines.config import tree as config_tree
from pipelines.config.checks import check_baseline
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import actors_threads
from pipelines.runtime.stage_graph import record_errors
from pipelines.runtime.stage_table import StageError
from pipelines.runtime.tracking import tell_rows, tracker
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import (
    IDENTITY,
    OWN,
    PUBLISHED,
    UNREFINED,
    ZERO_REFINED,
    regimes,
)
from pipelines.stages.controls import write_controls


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    everything, scratch = chosen(config, run_dir)
    if not everything:
        raise StageError("compare: there is no held-out concept: give concepts.test_*")
    _check_concepts(run_dir, everything)
    for method in scratch_methods(config):
        check_baseline(config, method)
    run_dir.write_json(f"{FOLDER}/concepts.json", {"compared": everything, "from_scratch": scratch})
    names = jobs(config, run_dir)
    there = set(run_dir.files(f"{FOLDER}/jobs"))
    todo = [j for j in names if f"{FOLDER}/jobs/{j}.parquet" not in there]
    progress = Progress("compare", len(names), "jobs", len(names) - len(todo))
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    bad = []
    with actors_threads(config):
        write_controls(run_dir, FOLDER, everything, config.compare.methods)
    for row in map_actors(config, CompareMethods, arguments, [{"job": j} for j in todo]):
        if row["error"]:
            bad.append({"key": row["job"], "reason": row["error"]})
        progress.add(bad=bool(row["error"]))
    record_errors(config, run_dir, "compare", bad, len(names))
    done = [j for j in names if run_dir.exists(f"{FOLDER}/jobs/{j}.parquet")]
    rows = [r for j in done for r in run_dir.read_table(f"{FOLDER}/jobs/{j}.parquet").to_pylist()]
    check_alike([r for r in rows if r["method"] != IDENTITY])
    times = timed(config, run_dir, arguments, (scratch or everything)[0])
    for row in rows:
        row["seconds"] = spent(row, times["seconds"])
    run_dir.write_table(f"{FOLDER}/rows.parquet", pa.Table.from_pylist(rows, ROWS))
    pictures = pa.concat_tables(
        run_dir.read_table(f"{FOLDER}/jobs/{j}.pictures.parquet") for j in done
    )
    run_dir.write_table(f"{FOLDER}/pictures.parquet", pictures)
    summary = {
        "preset": config.preset,
        "seed": config.seed,
        "split": config.adapt.split,
        "times": times,
        **summarise(of_regime(rows, OWN), [*config.compare.methods, *_derived(rows)]),
        "published": None,
    }
    if PUBLISHED in regimes(config):
        published = of_regime(rows, PUBLISHED)
        summary["published"] = summarise(published, config.compare.methods)
    summary["differs"] = differences(config, summary)
    run_dir.write_json(f"{FOLDER}/summary.json", summary)
    write(run_dir, FOLDER, summary, pictures.to_pylist())
    tell_rows(
        tracker(config, run_dir, "compare"),
        rows,
        "epoch",
        ("l1", "fd"),
        lambda row: " ".join(filter(None, (row["method"], row["finetune"]))),
    )
    log("compare: " + " ".join(lines(summary)))
    return {"jobs": len(names), "concepts": len(everything), "from_scratch": len(scratch)}


def _derived(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods that stand beside those configured, where the run's fine-tune is not as published."""
    there = {r["method"] for r in rows}
    return [m for m in (UNREFINED, ZERO_REFINED, E2GAN_BY_OURS) if m in there]


def _check_concepts(run_dir: RunDir, compared: Sequence[str]) -> None:
    """UnfairError if a compared concept has an adapter in the collection, or was in the base."""
    splits = {c.concept_id: c.split for c in load_concepts(run_dir)}
    seen = {f.split("/")[1] for f in run_dir.files("adapters")}
    if splits and any(splits[i] == "train" for i in compared):
        raise StageError("compare: a compared concept is a training concept")
    leaked = sorted(seen & set(compared) - {i for i in compared if splits[i] == "val"})
    if leaked:
        raise StageError(
            f"compare: adapters/{leaked[0]} was collected for a held-out concept: the run directory"
            " was changed by hand; give redo=[gans]"
        )
