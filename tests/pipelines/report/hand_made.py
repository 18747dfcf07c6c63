"""A finished run whose numbers are known, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling.concepts.concept import Concept
from modeling.concepts.table import to_table
from modeling.images import encode_png
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION
from pipelines.stages.evaluation_tables import MEMORY, PICTURES, ROWS

# L1 before and after the fine-tune, for concept i add i / 100 to all: differences stay exact
LEVELS = {
    PREDICTION: (0.20, 0.10),
    "zero LoRA": (0.40, 0.15),
    "mean adapter": (0.35, 0.14),
    "nearest text": (0.20, 0.12),  # alternates by ± 0.02 around the prediction at step 0
    "ridge": (0.17, 0.11),  # the prediction loses before the fine-tune
    "shuffled prompt": (0.38, 0.16),
}
NASTY = '<script>alert("x")</script> & a beard'


def concept(i: int, heldout: str) -> Concept:
    text = NASTY if (i, heldout) == (0, "combinations") else f"{heldout} {i}"
    return Concept(f"{heldout}-{i}", text, "combined", ("hair", "mood"), "test", heldout)


def level(method: str, i: int, when: int) -> float:
    swing = 0.02 * (-1) ** i if (method, when) == ("nearest text", 0) else 0.0
    return LEVELS[method][when] + swing + i / 100


def build(folder: Path) -> tuple[Config, RunDir]:
    """A finished run: 6 combinations, 2 atoms without a mean adapter; steps 0, 2, 4."""
    config = load_config(["preset=tiny", "report.concepts=3", "report.pictures=2"])
    run_dir = RunDir(str(folder))
    concepts = [concept(i, "combinations") for i in range(6)] + [
        concept(i, "atoms") for i in range(2)
    ]
    trained = Concept("trained-1", "a trained beard", "facial", ("beard",), "train")
    run_dir.write_table("concepts.parquet", to_table([trained, *concepts]))
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for c in concepts:
        i, key = int(c.concept_id[-1]), {"concept_id": c.concept_id, "text": c.text}

        def row(method: str, step: int, l1: float, kid: float | None, c=c, key=key) -> None:
            rows.append(
                {**key, "method": method, "split": "test", "heldout": c.heldout, "seed": 0}
                | {
                    "step": step,
                    "seconds": 0.01 + step / 10,
                    "l1": l1,
                    "kid": kid,
                    "fd": None,
                    "n": 8,
                }
            )

        def show(method: str, step: int, key=key) -> None:
            for name in ("one", "two"):
                image = encode_png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                picture = {"method": method, "step": step, "image_id": name, "image": image}
                pictures.append({**key, **picture})

        show("source", 0)
        show("ground truth", 0)
        row(IDENTITY, 0, 0.5 + i / 100, 0.3)
        show(IDENTITY, 0)
        for method in LEVELS:
            if (method, c.heldout) == ("mean adapter", "atoms"):
                continue
            before, after = level(method, i, 0), level(method, i, 1)
            row(method, 0, before, 0.2)
            row(method, 2, (before + after) / 2, None)
            row(method, 4, after, 0.1)
            show(method, 0)
            show(method, 4)
        row(CEILING, 6, 0.08 + i / 100, 0.05)
        show(CEILING, 6)
        times = {"predict": 0.01, "load": 0.002, "coreset": 0.05, "finetune": 0.4}
        run_dir.write_json(
            f"adapted/{c.concept_id}/timings.json", {**times, "threads": 1, "device": "cpu"}
        )
    run_dir.write_table("evaluation/rows.parquet", pa.Table.from_pylist(rows, ROWS))
    run_dir.write_table("evaluation/pictures.parquet", pa.Table.from_pylist(pictures, PICTURES))
    copies = [
        {k: r[k] for k in ("method", "concept_id", "text", "split", "heldout", "seed", "n")}
        | {"nearest": "trained-1", "distance": 0.25, "pictures": 0.1, "nearest_l1": 0.3}
        for r in rows
        if (r["method"], r["step"]) == (PREDICTION, 0)
    ]
    run_dir.write_table("evaluation/memory.parquet", pa.Table.from_pylist(copies, MEMORY))
    about = {"features": "EfficientNet-Lite0", "training_gap": 0.75}
    run_dir.write_json("evaluation/about.json", about)
    for name, l1 in (("trained-1", 0.3), ("trained-2", 0.1)):
        metrics = {"concept_id": name, "l1": l1, "zero": 0.25, "identity": 0.2, "seconds": 1.0}
        run_dir.write_json(f"adapters/{name}/metrics.json", metrics)
    marker = {"seconds": 3.5, "commit": "abc123", "versions": {"torch": "2.15"}, "summary": {}}
    run_dir.write_json("stages/concepts.json", marker)
    bad = [{"stage": "pairs", "key": str(k), "reason": "the image is empty"} for k in range(3)]
    run_dir.write_table("errors/pairs.parquet", pa.Table.from_pylist(bad))
    return config, run_dir
