"""What the stage `pairs` costs beside its edits: `python -m tests.bench.editor_overhead FOLDER`.

FOLDER holds photographs of 256×256. The same edits (Stable Diffusion img2img, a small randomly
initialised model, so that an edit takes about a second on a CPU core) are made in a bare loop and
by the stage, concept for concept in turn: one actor, one thread, one machine. The stage also reads
its rows from Ray Data, encodes PNG, writes Parquet and reports progress. Writes
results/editor_overhead.json. Use an otherwise idle machine.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from modeling.concepts.concept import Concept
from modeling.concepts.table import to_table
from modeling.editors.interface import EditResult
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source, source_ids
from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.stages.editing import EditConcept, edit_with, editor_options, file_of
from tests.bench.demo_stages import RESULTS
from tests.tiny_diffusion import stable_diffusion

CONCEPTS, IMAGES, STEPS = 9, 16, 10


def main(words: list[str]) -> int:
    import torch

    load = os.getloadavg()
    torch.set_num_threads(1)
    (photographs,) = words
    concepts = [Concept(f"style-{i}", f"style {i}", "art", (), "train") for i in range(CONCEPTS)]
    with tempfile.TemporaryDirectory() as folder:
        model = stable_diffusion(Path(folder), levels=4)
        config = load_config(
            [
                "preset=tiny",
                f"run_dir={folder}/run",
                "editor=img2img",
                "images.source=folder",
                f"images.path={Path(photographs).absolute()}",
                "images.size=256",
                f"images.count={IMAGES}",
                f"editing.models.img2img={model}",
                f"editing.steps.img2img={STEPS}",
                "editing.batch=4",
                "cluster.actors=1",
            ]
        )
        run_dir = RunDir(config.run_dir)
        run_dir.write_table("concepts.parquet", to_table(concepts))
        sources = [
            load_source(i, config.images.path, 256) for i in source_ids(config.images.path, IMAGES)
        ]
        editor = make_editor("img2img", **editor_options(config, "img2img"))
        bare = []
        begun = time.perf_counter()
        with ray_session(config, run_dir):
            rows = edit_with(config, run_dir, EditConcept, "img2img", concepts)
            next(rows)  # until here, processes start and the model is loaded
            start = time.perf_counter() - begun
            done = 1 + sum(1 for _ in rows)
            assert done == CONCEPTS
        # rows may arrive together: when a concept's file was written is what counts
        written = sorted(
            Path(run_dir.path(file_of(c.concept_id))).stat().st_mtime for c in concepts
        )
        stage = [b - a for a, b in itertools.pairwise(written)]
        for concept in concepts[1:]:
            last = time.perf_counter()
            assert all(isinstance(r, EditResult) for r in editor.edit(sources, concept))
            bare.append(time.perf_counter() - last)
        warm, seconds = bare[1:], stage[1:]
    result = {
        "command": "python -m tests.bench.editor_overhead FOLDER",
        "images": IMAGES,
        "concepts": len(seconds),
        "seconds_per_edit": {
            "bare loop": round(statistics.median(warm) / IMAGES, 4),
            "stage": round(statistics.median(seconds) / IMAGES, 4),
        },
        "overhead": round(statistics.median(seconds) / statistics.median(warm) - 1, 4),
        "spread_per_concept": {
            "bare loop": [round(min(warm), 3), round(max(warm), 3)],
            "stage": [round(min(seconds), 3), round(max(seconds), 3)],
        },
        "start_seconds": round(start, 2),
        "load_average_before": load,
        "machine": machine(),
    }
    Path(RESULTS, "editor_overhead.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: result[k] for k in ("seconds_per_edit", "overhead", "start_seconds")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
