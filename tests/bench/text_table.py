"""text.parquet at the paper's size: `python -m tests.bench.text_table [count]`.

Random numbers in the shape of CLIP's embeddings of 97,611 texts of 8 tokens; writes it in the
stage's batches; then, each in a process of its own: opens it for the first time on this machine
(unpacks it), and once more (it is mapped), with 10,000 texts. Writes results/text_table.json.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from modeling.text import TextColumns
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.text_table import TEXT, Texts, writing_text
from pipelines.stages.writing import CHUNK
from tests.bench.demo_stages import RESULTS

COUNT, TOKENS, DIM = 97_611, 8, 768


def take(folder: str, count: int) -> tuple[float, float, float]:
    """Seconds of opening, GiB of the process's own memory (shared pages left out), and seconds of
    10,000 texts."""
    before, begun = own_memory(), time.perf_counter()
    texts = Texts(RunDir(folder))
    opened, begun = time.perf_counter() - begun, time.perf_counter()
    for i in range(0, count, max(1, count // 10_000)):
        texts[f"concept-{i}"]
    taken = time.perf_counter() - begun
    return round(opened, 2), round(own_memory() - before, 2), round(taken, 2)


def own_memory() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 2**20


def main(words: list[str]) -> int:
    load = os.getloadavg()
    count = int(words[0]) if words else COUNT
    rng = np.random.default_rng(0)
    seconds, own_gib = {}, {}
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
        seconds["write"] = round(spent, 1)
        os.environ["TMPDIR"] = folder
        for what in ("unpack", "open"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                opened, own, taken = fresh.submit(take, folder, count).result()
            seconds[what], own_gib[what], seconds["take_10000"] = opened, own, taken
        size = run.size(TEXT)
    result = {
        "command": "python -m tests.bench.text_table " + " ".join(words),
        "texts": count,
        "file_gib": round(size / 2**30, 2),
        "seconds": seconds,
        "own_gib": own_gib,
        "load_average_before": load,
        "machine": machine(),
    }
    Path(RESULTS, "text_table.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
