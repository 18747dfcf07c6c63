"""Adapters for all concepts, or for a part, and more concepts by pairs: the same total seconds.

    python -m tests.bench.economy run_dir=RUN preset=small [key=value …] [variants=NAME;…] [seeds=0]

RUN has finished `gans`, with more concepts.paired_combinations than any variant takes. A variant
gives an adapter to a part of the training concepts, drawn by the run's seed; the others, and
`further` combinations, have images.paired pairs each. What that saves of the processor seconds that
the preset's own counts take (adapters, edits, both phases of the weight generator) is spent on
steps of the image loss. Rates are processor seconds of one thread, measured first (variants= alone
measures nothing else). seeds: added to the run's, of the weight generator's training.

The prediction is scored on the validation concepts by L1 to the true edit of evaluate.images unseen
pictures: as it is, and after adapt.steps of Adam on the factors (the paper's fine-tune). Goes on
where it was stopped. Writes tests/bench/results/economy.json.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import provenance
from pipelines.stages.contenders import PREDICTION
from tests.bench.economy.rates import rates
from tests.bench.economy.scores import against, means, scored
from tests.bench.economy.training import Training
from tests.bench.economy.variants import OWN, VARIANTS, Trainings
from tuning.branches import branch

RESULT = Path(__file__).parents[1] / "results" / "economy.json"
ZERO = "zero LoRA"


@contextmanager
def known() -> Iterator[dict[str, Any]]:
    """What was found so far, to be added to; two processes may work on it."""
    RESULT.touch()
    with RESULT.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = json.loads(file.read() or "{}")
        yield result
        file.seek(0)
        file.truncate()
        file.write(json.dumps(result, indent=1) + "\n")


def branched(run: RunDir, words: list[str], name: str, count: int) -> RunDir:
    """A branch with the weights of so many adapters."""
    folder = Path(f"{run.uri}-{name}")
    if not folder.exists():
        branch(Path(run.uri), folder, ("concepts", "pairs", "base", "gans"))
    words = [w for w in words if not w.startswith("run_dir=")]
    command = [sys.executable, "-m", "pipelines", "weights", *words]
    subprocess.run([*command, f"run_dir={folder}", f"weights.concepts={count}"], check=True)
    return RunDir(str(folder))


def main(given: list[str]) -> int:
    own = dict(w.partition("=")[::2] for w in given)
    words = [w for w in given if w.partition("=")[0] not in ("variants", "seeds")]
    config = load_config([*words, "adapt.split=val", "rival.train=false", "repeats=1"])
    run = RunDir(config.run_dir)
    trainings = Trainings(config, run)
    with known() as result:
        measured = result.get("processor seconds")
    if not measured:
        base = branched(run, words, "rates", len(trainings.with_adapter))
        measured = {k: round(v, 5) for k, v in rates(config, base, trainings).items()}
        with known() as result:
            result |= {"processor seconds": measured, "machine": machine()}
    names = own["variants"].split(";") if "variants" in own else list(VARIANTS)
    for seed in own.get("seeds", "0").split(","):
        for name in filter(None, names):
            with known() as result:
                if seed in result.get("variants", {}).get(name, {}).get("scores", {}):
                    continue
            one = tried(words, name, int(seed), measured)
            with known() as result:
                entry = result.setdefault("variants", {}).setdefault(name, one | {"scores": {}})
                scores = one.pop("scores")
                entry["scores"][seed] = scores[PREDICTION]
                if ZERO in scores:
                    result[ZERO] = means({seed: scores[ZERO]})
                summarise(result)
                print(name, seed, entry["l1"], flush=True)
    return 0


def tried(words: list[str], name: str, seed: int, measured: dict[str, float]) -> dict[str, Any]:
    variant = VARIANTS[name]
    config = load_config([*words, "adapt.split=val", "rival.train=false", "repeats=1"])
    run = RunDir(config.run_dir)
    trainings = Trainings(config, run)
    count, steps = trainings.adapters(variant), trainings.image_steps(variant, measured)
    slug = f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    folder = branched(run, words, slug, count)
    pools, few = trainings.pools(variant)
    trained = replace(
        config,
        seed=config.seed + seed,
        generator=replace(config.generator, image_steps=steps),
    )
    Training(trained, folder, pools, few).run(slug)
    g = config.generator
    costs = trainings.collecting(variant, measured) | {
        "weight steps": g.steps * measured["weight step"],
        "image steps": steps * measured["image step"],
    }
    methods = (PREDICTION, ZERO) if name == OWN else (PREDICTION,)
    return {
        "adapters": count,
        "by pairs": len(few),
        "image steps": steps,
        "seconds": {k: round(v, 1) for k, v in costs.items()},
        "total seconds": round(sum(costs.values()), 1),
        "scores": scored(config, folder, methods),
        "commit": provenance()["commit"],
    }


def summarise(result: dict[str, Any]) -> None:
    """Means, and differences to the preset's own proportions where both have a seed."""
    variants = result["variants"]
    for name, entry in variants.items():
        entry["l1"] = means(entry["scores"])
        reference = variants.get(OWN, {}).get("scores", {})
        if name != OWN and reference.keys() & entry["scores"].keys():
            entry["against the preset's own"] = against(entry["scores"], reference)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
