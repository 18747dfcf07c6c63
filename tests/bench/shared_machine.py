"""Training beside another busy process: `python -m tests.bench.shared_machine [presets=a,b]`.

Steps a second of the base's training, as the stage makes them, on one thread and on one for each
core, alone and beside a process that keeps one core busy. torch's threads wait for each other
spinning (libgomp); GOMP_SPINCOUNT says how long before they sleep, OMP_WAIT_POLICY=PASSIVE that
they sleep at once. A thread that waits for one whose core another process has spins away what is
left. Writes results/shared_machine.json; needs a machine that is otherwise idle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modeling.targets.base_training import BaseTraining
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import make_target
from modeling.targets.recipe import base_recipe
from pipelines.config.load import load_config
from pipelines.plan.shapes import Shapes
from pipelines.runtime.machine import cores, machine
from pipelines.runtime.stage_graph import provenance
from pipelines.stages.base import discriminator_config, translator_config
from tests.bench.demo_stages import RESULTS

SECONDS = 6.0
SPINNING: dict[str, dict[str, str]] = {
    "libgomp's own": {},
    "100000": {"GOMP_SPINCOUNT": "100000"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def steps_per_second(preset: str, threads: int) -> float:
    """Of this process."""
    torch.set_num_threads(threads)
    config = load_config([f"preset={preset}"])
    recipe, size, dim = base_recipe(config.base), config.images.size, Shapes(config).text_dim
    network = make_target(translator_config(config, dim))
    training = BaseTraining(network, PatchDiscriminator(discriminator_config(config)), recipe)
    x = torch.rand(recipe.batch, 3, size, size)
    tokens = torch.randn(recipe.batch, 12, dim)
    mask = torch.ones(recipe.batch, 12, dtype=torch.bool)
    training.step(x, x, tokens, mask)
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        training.step(x, x, tokens, mask)
        steps += 1
    return steps / (time.perf_counter() - begun)


@contextmanager
def busy(there: bool) -> Iterator[None]:
    """One core's worth of another process."""
    if not there:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    if "threads" in given:  # one measurement, in a process of its own
        print(steps_per_second(given["preset"], int(given["threads"])))
        return 0
    rows = []
    for preset in given.get("presets", "tiny,small,workstation").split(","):
        for threads in sorted({1, cores()}):
            for spinning, variables in SPINNING.items():
                if threads == 1 and variables:
                    continue  # nobody to wait for
                row = {"preset": preset, "threads": threads, "spinning": spinning}
                for beside in (False, True):
                    with busy(beside):
                        found = subprocess.run(
                            [
                                *(sys.executable, "-m", "tests.bench.shared_machine"),
                                *(f"preset={preset}", f"threads={threads}"),
                            ],
                            env={**os.environ, **variables},
                            capture_output=True,
                            text=True,
                            check=True,
                        )
                    name = "beside a busy process" if beside else "alone"
                    row[f"steps/s {name}"] = round(float(found.stdout), 2)
                print(json.dumps(row), flush=True)
                rows.append(row)
    result = {
        "command": "python -m tests.bench.shared_machine",
        "machine": machine(),
        "commit": provenance()["commit"],
        "torch": torch.__version__,
        "seconds a measurement": SECONDS,
        "rows": rows,
    }
    (RESULTS / "shared_machine.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
