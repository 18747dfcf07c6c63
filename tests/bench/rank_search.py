"""Do searched ranks beat uniform ones? `python -m tests.bench.rank_search preset=small run_dir=…`.

Needs a run whose `base` is done, of which it reads a copy. For each uniform rank and each
ranks.score: the command `ranks`, which trains the base's concepts at the highest rank, at the ranks
found and at the uniform rank of equal size, and scores them on validation images; and a control,
ranks drawn at random of the same size. Writes results/rank_search.json.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from modeling.metrics import paired_bootstrap
from modeling.rank_search import rank_costs, search_ranks
from pipelines import ranks
from pipelines.artifacts import RunDir
from pipelines.base import load_base
from pipelines.config import Config, Lora, load_config
from pipelines.machine import machine
from pipelines.session import ray_session
from tests.bench.demo_stages import RESULTS

RANKS, SCORES, RANDOM = (2, 4), ("energy", "loss"), 3


def copied(source: RunDir, to: str) -> RunDir:
    """What the command reads, apart from the run that it is of."""
    run = RunDir(to)
    concepts = source.read_json("base/base.json")["concepts"]
    names = ["concepts.parquet", "text.parquet", *source.files("base")]
    for name in [*names, *(f"pairs/{i}.parquet" for i in concepts)]:
        run.write(name, source.read(name))
    return run


def validation(run: RunDir, name: str, concepts: list[str]) -> np.ndarray:
    return np.array([run.read_json(f"ranks/{name}/{i}.json")["l1"] for i in concepts])


def random_ranks(config: Config, run: RunDir, concepts: list[str]) -> dict[str, Any]:
    """L1 − the uniform rank's, of patterns of the same size that nothing was learnt for."""
    translator, _ = load_base(config, run)
    costs, rng = rank_costs(translator), np.random.default_rng(0)
    deltas = []
    for draw in range(RANDOM):
        gains = {n: {r: rng.random() for r in config.ranks.choices} for n in costs}
        pattern = search_ranks(gains, costs, config.lora.rank * sum(costs.values()))
        name = f"random-{config.lora.rank}-{draw}"
        lora = Lora(config.lora.rank, pattern, config.lora.seed)
        ranks.train_at(config, run, name, lora, concepts, config.gans.steps)
        scores = validation(run, name, concepts)
        deltas.append(scores - validation(run, ranks.CONFIGURED, concepts))
    return {"patterns": RANDOM, "difference": paired_bootstrap(np.mean(deltas, 0))._asdict()}


def main(words: list[str]) -> int:
    load = os.getloadavg()
    given = load_config(words)
    out = []
    with tempfile.TemporaryDirectory() as folder, ray_session(given):
        run = copied(RunDir(given.run_dir), folder)
        for rank in RANKS:
            run.delete(ranks.FOLDER)
            for score in SCORES:
                config = load_config([*words, f"lora.rank={rank}", f"ranks.score={score}"])
                run.delete(f"{ranks.FOLDER}/{ranks.HIGHEST}")
                run.delete(f"{ranks.FOLDER}/{ranks.FOUND}")
                begun = time.perf_counter()
                ranks.run(config, run)
                seconds = time.perf_counter() - begun
                result = run.read_json(ranks.RESULT)
                layers = {x["layer"]: x["rank"] for x in result.pop("layers")}
                out.append({"uniform": rank, **result, "ranks": layers, "seconds": round(seconds)})
            concepts = out[-1]["validation"]["concepts"]
            out[-1]["random"] = random_ranks(config, run, concepts)
            print(json.dumps(out[-2:]), flush=True)
    result = {
        "command": "python -m tests.bench.rank_search " + " ".join(words),
        "base": RunDir(given.run_dir).read_json("base/base.json")["l1"],
        "searches": out,
        "load_average_before": load,
        "machine": machine(),
    }
    path = Path(RESULTS, "rank_search.json")
    path.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
