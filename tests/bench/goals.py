"""What the fine-tune keeps of the paper's promise: `python -m tests.bench.goals run_dir=…`.

From the rows of a run's `evaluate` and `compare`, each held-out set by itself: the short fine-tune
from the prediction against E²GAN's long one and against E²GAN on the best fine-tune; how much
sooner it is where they end, and where a translator from scratch ends after its steps; what stands
after the learned steps. Writes tests/bench/results/goals.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.comparison import numbers
from pipelines.comparison.methods import E2GAN, E2GAN_BY_OURS
from pipelines.comparison.rows import FOLDER as COMPARISON
from pipelines.config.sections.scoring import JOINT, REPTILE
from pipelines.presentation.reach import reach
from pipelines.presentation.scores import compare, scores
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import IDENTITY, OWN, PREDICTION, PUBLISHED, SCRATCH, UNREFINED
from pipelines.stages.evaluation_tables import load_rows

RESULT = Path(__file__).parent / "results" / "goals.json"
ZERO, NEAREST = "zero LoRA", "nearest text"
Rows = Sequence[dict[str, Any]]


def main(words: list[str]) -> int:
    run = RunDir(dict(w.partition("=")[::2] for w in words)["run_dir"])
    marker = run.read_json("stages/compare.json")
    compared = run.read_table(f"{COMPARISON}/rows.parquet").to_pylist()
    evaluated = {r: load_rows(run, r) for r in (OWN, PUBLISHED)}
    sets = sorted({r["heldout"] for r in compared})
    result = {
        "commit": marker["commit"],
        "machine": machine(),
        "seeds": {
            "evaluate": sorted({r["seed"] for r in evaluated[OWN]}),
            "compare": sorted({r["seed"] for r in compared}),
        },
        "compare": {
            held: distances([r for r in compared if r["heldout"] == held]) for held in sets
        },
        "evaluate": {
            held: differences({k: of_set(rows, held) for k, rows in evaluated.items()})
            for held in sets
        },
        "amortised seconds": {
            k: v
            for k, v in run.read_json("stages/generator.json")["summary"].items()
            if k != "weights"
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def of_set(rows: Rows, held: str) -> Rows:
    return [r for r in rows if r["heldout"] == held]


def distances(rows: Rows) -> dict[str, Any]:
    """One set of the comparison: Fréchet distances."""
    own = [r for r in rows if (r["finetune"] or OWN) == OWN]
    published = [r for r in rows if (r["finetune"] or PUBLISHED) == PUBLISHED]

    def end(among: Rows, method: str, epoch: int | None = None) -> dict[str, float]:
        mine = [r for r in among if r["method"] == method]
        last = max(r["epoch"] for r in mine) if epoch is None else epoch
        return numbers.by_concept([r for r in mine if r["epoch"] == last], "fd")

    ours = end(own, PREDICTION)
    against = {
        "E²GAN as published, 100 epochs": end(published, E2GAN),
        "E²GAN on our fine-tune, 100 epochs": end(own, E2GAN_BY_OURS),
        "E²GAN on our fine-tune, 20 epochs": end(own, ZERO),
        "E²GAN as published, 20 epochs": end(published, ZERO),
        "prediction as published, 20 epochs": end(published, PREDICTION),
        "prediction, no learned steps": end(own, UNREFINED),
    }
    for method in (JOINT, REPTILE, "LoRA-GA", "ridge", NEAREST, "mean adapter"):
        if any(r["method"] == method for r in own):
            against[f"{method}, our fine-tune"] = end(own, method)
    return {
        "fd": average(ours),
        "concepts": len(ours),
        "against": {k: {"fd": average(v), **(compare(ours, v) or {})} for k, v in against.items()},
        "sooner than E²GAN as published": numbers.reach(own, PREDICTION, E2GAN, "fd"),
        "sooner than E²GAN as published, L1": numbers.reach(own, PREDICTION, E2GAN, "l1"),
    }


def differences(rows: dict[str, Rows]) -> dict[str, Any]:
    """One set of the evaluation: L1."""
    own, published = rows[OWN], rows[PUBLISHED]
    by = {k: scores(v, "l1") for k, v in rows.items()}
    last = max(r["step"] for r in own if r["method"] == PREDICTION)
    learned = [r["step"] for r in own if r["method"] == PREDICTION]
    steps = {s: average(by[OWN][PREDICTION, s]) for s in sorted(set(learned))}
    starts = {m: by[OWN][m, s] for m, s in by[OWN] if s == 0}
    return {
        "prediction by step": steps,
        "identity": average(by[OWN][IDENTITY, 0]),
        "against starts": {
            m: {"l1": average(v), **(compare(by[OWN][PREDICTION, 0], v) or {})}
            for m, v in starts.items()
            if m != PREDICTION
        },
        "after the last step": {
            regime: {
                m: {"l1": average(v), **(compare(by[regime].get((PREDICTION, last), {}), v) or {})}
                for (m, s), v in by[regime].items()
                if s == last
            }
            for regime in rows
        },
        "no learned steps by step": {
            s: average(v) for (m, s), v in by[OWN].items() if m == UNREFINED
        },
        "nearest text as published, after its steps": average(by[PUBLISHED][NEAREST, last]),
        "from scratch": reach(own, PREDICTION, SCRATCH),
        "from scratch, by the full budget": reach(own, "prediction, full budget", SCRATCH),
        "from scratch, as published": reach(published, PREDICTION, SCRATCH),
    }


def average(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
