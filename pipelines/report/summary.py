"""The numbers behind the report, from what the other stages left in the run directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling.concepts.concept import Concept
from modeling.metrics.features import EfficientNetLite0, Inception
from pipelines.config.schema import Config
from pipelines.presentation.numbers import summarise
from pipelines.presentation.scores import Numbers, finite, mean
from pipelines.report.numbers import losses, memory
from pipelines.runtime.machine import machine
from pipelines.runtime.pool import planned_actors
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import threads_per_actor
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.stage_table import STAGES
from pipelines.stages import evaluate
from pipelines.stages.adapt import FOLDER as ADAPTED
from pipelines.stages.adapt import load_timings
from pipelines.stages.adapter_metrics import FOLDER as ADAPTERS
from pipelines.stages.adapter_metrics import all_metrics, collected
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION, PUBLISHED
from pipelines.stages.evaluation_tables import load_rows

SHOWN = 100
"""Failing adapters that the page lists; of the paper's 85,145 one in a hundred would fill it."""


def summary(
    config: Config,
    run_dir: RunDir,
    rows: Sequence[Mapping[str, Any]],
    concepts: Sequence[Concept],
) -> Numbers:
    """What report/summary.json holds.

    rows: of stage `evaluate`, in the run's own regime; `published` is of the other, if there is
    one. concepts: those held out. ArtifactError if a file is missing.
    """
    methods = reported_methods(config, rows)
    about = run_dir.read_json(f"{evaluate.FOLDER}/about.json")
    inception = config.evaluate.features == "inception"
    distances = run_dir.read_table(f"{evaluate.FOLDER}/memory.parquet").to_pylist()
    lost, compared = losses(rows, methods)
    published = load_rows(run_dir, PUBLISHED)
    return {
        "preset": config.preset,
        "seed": config.seed,
        "methods": methods,
        "sets": summarise(rows, methods, config.adapt.learned_steps),
        "published": summarise(published, reported_methods(config, published)) if published else {},
        "features": about["features"],
        "frechet": (Inception if inception else EfficientNetLite0).name,
        "fd_images": config.evaluate.fd_images,
        "heldout": dict(Counter(c.heldout for c in concepts)),
        "not_finite": sum(not finite(r["l1"]) for r in rows),
        "times": _times(config, run_dir, concepts),
        "stages": _stages(run_dir),
        "machine": machine(),
        "adapters": _adapters(run_dir),
        "errors": _errors(run_dir),
        "memory": {"sets": memory(distances), "training_gap": about["training_gap"]},
        "losses": {"compared": compared, "lost": lost},
    }


def reported_methods(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods in the order of the page: those configured, then any others that were scored."""
    wanted = [PREDICTION, *config.evaluate.controls, IDENTITY]
    if config.evaluate.ceiling:
        wanted.append(CEILING)
    return list(dict.fromkeys([*wanted, *(r["method"] for r in rows)]))


def _times(config: Config, run_dir: RunDir, concepts: Sequence[Concept]) -> Numbers:
    """Mean seconds of each part of one concept's adaptation, and what they were measured on."""
    ids = [c.concept_id for c in concepts]
    timings = [
        load_timings(run_dir, i) for i in ids if run_dir.exists(f"{ADAPTED}/{i}/timings.json")
    ]
    parts = ("predict", "load", "coreset", "finetune")
    return {
        "concepts": len(timings),
        "seconds": {p: mean(t[p] for t in timings) for p in parts},
        "devices": sorted({t["device"] for t in timings}),
        "threads": sorted({t["threads"] for t in timings}),
        "actors": min(_actors(config, run_dir), max(len(timings), 1)),
        "threads_per_actor": threads_per_actor(config),
    }


def _actors(config: Config, run_dir: RunDir) -> int:
    """Those that shared the work in `adapt`; of a run from before they were counted, as planned."""
    marker = finished(run_dir, "adapt") or {"summary": {}}
    return marker["summary"].get("actors") or planned_actors(config)


def _stages(run_dir: RunDir) -> dict[str, Numbers]:
    """What the finished stages left in their markers."""
    out = {}
    for stage in STAGES:
        marker = finished(run_dir, stage.name)
        if marker is not None and stage.name != "report":
            out[stage.name] = {
                k: marker.get(k) for k in ("seconds", "commit", "versions", "summary")
            }
    return out


def _adapters(run_dir: RunDir) -> Numbers:
    """The collection: how many adapters there are, and which do not beat doing nothing."""
    texts = {c.concept_id: c.text for c in load_concepts(run_dir)}
    files = run_dir.listing(ADAPTERS)
    metrics = list(all_metrics(run_dir, collected(files), files).values())
    failing = [
        {
            "concept_id": m["concept_id"],
            "text": texts.get(m["concept_id"], m["concept_id"]),
            **{k: m[k] for k in ("l1", "zero", "identity")},
        }
        for m in metrics
        if not m["l1"] < m["identity"]
    ]
    failing.sort(key=lambda m: m["identity"] - m["l1"])  # the worst first
    return {
        "total": len(metrics),
        "failing": len(failing),
        "not_better_than_identity": failing[:SHOWN],
        **{f"mean_{k}": mean(m[k] for m in metrics) for k in ("l1", "zero", "identity")},
    }


def _errors(run_dir: RunDir) -> dict[str, dict[str, int]]:
    """Per stage: reason → number of bad rows."""
    out = {}
    for name in run_dir.files("errors"):
        if name.endswith(".parquet"):
            reasons = [r["reason"] for r in run_dir.read_table(name).to_pylist()]
            out[Path(name).stem] = dict(Counter(reasons).most_common())
    return out
