"""Stage `report`: one self-contained page from what the other stages left in the run directory.

Writes `report/index.html`, `report/summary.json` (the numbers behind it) and `report/pictures.png`
(the main grid, for a README). Nothing is computed here that an artifact does not support.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling.concepts.planning import Concept
from modeling.metrics.features import EfficientNetLite0, Inception
from pipelines.comparison import page as report_comparison
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.presentation import numbers as report_numbers
from pipelines.presentation import pictures as report_pictures
from pipelines.presentation.curves import panel
from pipelines.presentation.numbers import Numbers, mean
from pipelines.report import page as report_page
from pipelines.report import studies as report_studies
from pipelines.runtime.log import log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import threads_per_actor
from pipelines.runtime.stage_graph import STAGES, StageError, finished
from pipelines.stages import evaluate
from pipelines.stages.adapt import FOLDER as ADAPTED
from pipelines.stages.adapt import load_timings
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    SCRATCH,
    WEIGHTS_ONLY,
)
from pipelines.stages.gans import FOLDER as ADAPTERS
from pipelines.stages.gans import load_metrics

FOLDER = "report"


def reported_methods(config: Config, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Methods in the order of the page: those configured, then any others that were scored."""
    wanted = [PREDICTION, *config.evaluate.controls, IDENTITY]
    if config.evaluate.ceiling:
        wanted.append(CEILING)
    return list(dict.fromkeys([*wanted, *(r["method"] for r in rows)]))


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """Write the report; StageError if nothing was evaluated, ArtifactError if a file is missing."""
    rows = run_dir.read_table(f"{evaluate.FOLDER}/rows.parquet").to_pylist()
    if not rows:
        raise StageError("report: evaluation/rows.parquet holds no rows; give redo=[evaluate]")
    pictures = run_dir.read_table(f"{evaluate.FOLDER}/pictures.parquet").to_pylist()
    concepts = [c for c in load_concepts(run_dir) if c.split == config.adapt.split]
    methods = reported_methods(config, rows)
    summary = {
        "preset": config.preset,
        "seed": config.seed,
        "methods": methods,
        "sets": report_numbers.summarise(rows, methods),
        "features": run_dir.read_json(f"{evaluate.FOLDER}/about.json")["features"],
        "frechet": (
            Inception if config.evaluate.features == "inception" else EfficientNetLite0
        ).name,
        "fd_images": config.evaluate.fd_images,
        "heldout": dict(Counter(c.heldout for c in concepts)),
        "not_finite": sum(not report_numbers.finite(r["l1"]) for r in rows),
        "times": _times(config, run_dir, concepts),
        "stages": _stages(run_dir),
        "machine": machine(),
        "adapters": _adapters(run_dir),
        "errors": _errors(run_dir),
    }
    memory = run_dir.read_table(f"{evaluate.FOLDER}/memory.parquet").to_pylist()
    summary["memory"] = {
        "sets": report_numbers.memory(memory),
        "training_gap": run_dir.read_json(f"{evaluate.FOLDER}/about.json")["training_gap"],
    }
    lost, compared = report_numbers.losses(rows, methods)
    summary["losses"] = {"compared": compared, "lost": lost}
    with_pictures = {p["concept_id"] for p in pictures}
    shown = report_pictures.chosen(concepts, with_pictures, config.report.concepts)
    unpictured = (CONTINUED, SCRATCH)
    pictured = [m for m in methods if m not in unpictured and not m.endswith(WEIGHTS_ONLY)]
    grid = report_pictures.grids(rows, pictures, shown, pictured)
    grid.sort(key=lambda g: list(summary["sets"]).index(g["concept"].heldout))
    curves = {
        held: panel(f"curve-{held}", numbers["methods"], methods)
        for held, numbers in summary["sets"].items()
    }
    page = report_page.render(summary, grid, curves, config_tree.to_yaml(config), _further(run_dir))
    run_dir.write_json(f"{FOLDER}/summary.json", summary)
    run_dir.write(f"{FOLDER}/pictures.png", report_pictures.grid_png(grid, pictured))
    run_dir.write(f"{FOLDER}/index.html", page.encode())
    sentences = {held: s["sentences"] for held, s in summary["sets"].items()}
    for lines in sentences.values():
        log("report: " + " ".join(lines))
    return {"sentences": sentences, "lost": len(lost), "compared": compared}


def _further(run_dir: RunDir) -> str:
    """Sections of what a run need not have: the comparison, and studies."""
    studies = report_studies.section(report_studies.studies(run_dir))
    if finished(run_dir, "compare") is None:
        return studies
    found = run_dir.read_json("comparison/summary.json")
    pictures = run_dir.read_table("comparison/pictures.parquet").to_pylist()
    return f"{report_comparison.section(found, pictures)}\n{studies}"


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
        "actors": min(config.cluster.actors, max(len(timings), 1)),
        "threads_per_actor": threads_per_actor(config),
    }


def _stages(run_dir: RunDir) -> dict[str, Numbers]:
    """What the finished stages left in their markers."""
    out = {}
    for stage in STAGES:
        marker = finished(run_dir, stage.name)
        if marker is not None and stage.name != FOLDER:
            out[stage.name] = {
                k: marker.get(k) for k in ("seconds", "commit", "versions", "summary")
            }
    return out


def _adapters(run_dir: RunDir) -> Numbers:
    """The collection: how many adapters there are, and which do not beat doing nothing."""
    texts = {c.concept_id: c.text for c in load_concepts(run_dir)}
    ids = [f.split("/")[1] for f in run_dir.files(ADAPTERS) if f.endswith("/metrics.json")]
    metrics = [load_metrics(run_dir, i) for i in ids]
    failing = [
        {
            "concept_id": m["concept_id"],
            "text": texts.get(m["concept_id"], m["concept_id"]),
            **{k: m[k] for k in ("l1", "zero", "identity")},
        }
        for m in metrics
        if not m["l1"] < m["identity"]
    ]
    failing.sort(key=lambda m: m["identity"] - m["l1"])
    return {
        "total": len(metrics),
        "not_better_than_identity": failing,
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
