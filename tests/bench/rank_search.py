"""Do searched ranks beat uniform ones? `python -m tests.bench.rank_search preset=small lora.rank=2
run_dir=… [key=value …]`.

Needs a run whose `base` is done, of which it reads a copy. By each ranks.score: the command
`ranks`, which trains the base's concepts at the highest rank, at the ranks found and at the uniform
rank of equal size, and scores them on validation images; and a control, ranks drawn at random of
the same size. Writes its entry of results/rank_search.json.
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

from modeling.metrics.distances import paired_bootstrap
from modeling.targets.rank_search import rank_costs, search_ranks
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.training import Lora
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.stages import ranks
from pipelines.stages.base import load_base
from tests.bench.demo_stages import RESULTS

SCORES, RANDOM = ("energy", "loss"), 2
PATH = Path(RESULTS, "rank_search.json")


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


def random_ranks(config: Config, run: RunDir, concepts: list[str], steps: int) -> dict[str, Any]:
    """L1 − the uniform rank's, mean of patterns of the same size that nothing was learnt for."""
    translator, _ = load_base(config, run)
    costs, rng = rank_costs(translator), np.random.default_rng(0)
    scores = []
    for draw in range(RANDOM):
        gains = {n: {r: rng.random() for r in config.ranks.choices} for n in costs}
        pattern = search_ranks(gains, costs, config.lora.rank * sum(costs.values()))
        lora = Lora(config.lora.rank, pattern, config.lora.seed)
        ranks.train_at(config, run, f"random-{draw}", lora, concepts, steps)
        scores.append(validation(run, f"random-{draw}", concepts))
    deltas = np.mean(scores, 0) - validation(run, ranks.CONFIGURED, concepts)
    return {
        "patterns": RANDOM,
        "l1": float(np.mean(scores)),
        "difference": paired_bootstrap(deltas)._asdict(),
    }


def main(words: list[str]) -> int:
    load = os.getloadavg()
    given = load_config(words)
    searches = {}
    with tempfile.TemporaryDirectory() as folder, ray_session(given):
        run = copied(RunDir(given.run_dir), folder)
        for score in SCORES:
            config = load_config([*words, f"ranks.score={score}"])
            for name in (ranks.HIGHEST, ranks.FOUND):  # as configured stays as it was
                run.delete(f"{ranks.FOLDER}/{name}")
            begun = time.perf_counter()
            ranks.run(config, run)
            result = run.read_json(ranks.RESULT)
            layers = {x["layer"]: x["rank"] for x in result.pop("layers")}
            searches[score] = result | {"ranks": layers}
            searches[score]["seconds"] = round(time.perf_counter() - begun)
        concepts = searches[SCORES[0]]["validation"]["concepts"]
        steps = searches[SCORES[0]]["steps"]
        random = random_ranks(given, run, concepts, steps)
    command = "python -m tests.bench.rank_search " + " ".join(words)
    entry = {
        "command": command,
        "searches": searches,
        "random": random,
        "load_average_before": load,
        "machine": machine(),
    }
    earlier = json.loads(PATH.read_text()) if PATH.exists() else []
    entries = [*(e for e in earlier if e["command"] != command), entry]
    PATH.write_text(json.dumps(entries, indent=2) + "\n")
    print(json.dumps({k: v["validation"] for k, v in searches.items()} | {"random": random}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
