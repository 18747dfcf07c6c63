"""text.parquet at the paper's size: `python -m tests.bench.text_table [count]`.

Random numbers in the shape of CLIP's embeddings of 97,611 texts of 8 tokens; writes it in the
stage's batches, reads it, takes 10,000 texts. Writes results/text_table.json.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from modeling.text import TextColumns
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.text_table import TEXT, Texts, writing_text
from pipelines.stages.writing import CHUNK
from tests.bench.demo_stages import RESULTS

COUNT, TOKENS, DIM = 97_611, 8, 768


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main(words: list[str]) -> int:
    load = os.getloadavg()
    count = int(words[0]) if words else COUNT
    rng = np.random.default_rng(0)
    seconds, peaks = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(folder)
        spent = 0.0
        with writing_text(run) as table:
            for start in range(0, count, CHUNK):
                n = min(CHUNK, count - start)
                columns = TextColumns(
                    np.full(n, TOKENS, np.int32),
                    rng.standard_normal((n * TOKENS, DIM), dtype=np.float32),
                    rng.standard_normal((n, DIM), dtype=np.float32),
                )
                begun = time.perf_counter()
                table.add([f"concept-{i}" for i in range(start, start + n)], columns)
                spent += time.perf_counter() - begun
        seconds["write"], peaks["write"] = round(spent, 1), peak()
        begun = time.perf_counter()
        texts = Texts(run)
        seconds["load"], peaks["load"] = round(time.perf_counter() - begun, 1), peak()
        begun = time.perf_counter()
        for i in range(0, count, max(1, count // 10_000)):
            texts[f"concept-{i}"]
        seconds["take_10000"] = round(time.perf_counter() - begun, 2)
        size = run.size(TEXT)
    result = {
        "command": "python -m tests.bench.text_table " + " ".join(words),
        "texts": count,
        "file_gib": round(size / 2**30, 2),
        "seconds": seconds,
        "peak_gib": peaks,
        "load_average_before": load,
        "machine": machine(),
    }
    Path(RESULTS, "text_table.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
