"""What kernel ridge on landmarks loses: `python -m tests.bench.ridge_landmarks run_dir=RUN`.

On a run's collection of M adapters: the regression carried by all M prompts, and by fewer of them,
each fitted to all M. Error on the adapters of its validation concepts, which it has not seen, as a
part of that of the mean adapter. Writes results/ridge_landmarks.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from modeling.weights.controls import KernelRidge, gram, landmarks_of
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished, provenance
from pipelines.stages.concepts import load_text
from pipelines.stages.weights import load_layout
from tests.bench.demo_stages import RESULTS
from tests.collected import load_blocks

PARTS = (16, 8, 4, 2, 1)
"""One of so many prompts is a landmark."""


def main(words: list[str]) -> int:
    run = RunDir(dict(word.partition("=")[::2] for word in words)["run_dir"])
    texts, (_, normalisation) = load_text(run), load_layout(run)
    (ids, raw), (held, raw_held) = (load_blocks(run, split) for split in ("train", "val"))
    blocks, wanted = (normalisation.apply(b).flatten(1) for b in (raw, raw_held))
    pooled, queries = texts.pooled(ids), texts.pooled(held)
    baseline = float((blocks.mean(0) - wanted).square().mean())
    rows = []
    for part in PARTS:
        begun = time.perf_counter()
        chosen = landmarks_of(len(ids), len(ids) // part)
        ridge = KernelRidge.choose(pooled[chosen], gram(blocks[chosen]))
        made = ridge.weights(queries, pooled) @ blocks.double()
        rows.append(
            {
                "landmarks": len(chosen),
                "error, of the mean adapter's": float((made - wanted).square().mean()) / baseline,
                "loo_r2": ridge.loo_r2,
                "ridge": ridge.ridge,
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    marker: dict[str, Any] = finished(run, "gans") or {}
    result = {
        "command": "python -m tests.bench.ridge_landmarks run_dir=RUN",
        "adapters": len(ids),
        "validation adapters": len(held),
        "gans.steps": marker["config"]["gans"]["steps"],
        "weights an adapter": int(normalisation.mask.sum()),
        "rows": rows,
        "machine": machine(),
        "commit": provenance()["commit"],
    }
    Path(RESULTS, "ridge_landmarks.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(2)
    raise SystemExit(main(sys.argv[1:]))
