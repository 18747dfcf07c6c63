"""Training on CPU cores, side by side: `python -m tests.bench.cpu_training [presets=a,b]`.

A step of the base's training and of eight adapters' (four at the workstation's size), of the
presets' networks on one thread, as the stages make it, and compiled by torch.compile, with the
seconds of the first call, which compiles. Images a second, and FLOP/s as a part of what this core
does in a product of large matrices. Then the collection's actors on all cores at once
(pipelines/plan/arrangement.py). Writes results/cpu_training.json; needs an idle machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from modeling.flops import count_flops
from modeling.targets.adapter_training import ConceptData, train_adapters
from modeling.targets.base_training import BaseTraining
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target, make_target
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.recipe import base_recipe, collection_recipe
from pipelines.config.load import load_config
from pipelines.plan.arrangement import arrangements
from pipelines.plan.shapes import Shapes
from pipelines.runtime.machine import machine
from pipelines.runtime.stage_graph import provenance
from pipelines.stages.base import discriminator_config, translator_config
from tests.bench.demo_stages import RESULTS

SECONDS = 5.0
STEPS = 2
"""Of a call that trains adapters."""
TOKENS = 12
WAYS = ("as it is", "compiled")
ALL_CORES = ("tiny", "small")


def peak_flops() -> float:
    """FLOP/s of one thread in a product of 2048 × 2048 float32 matrices, the best of five."""
    a = torch.randn(2048, 2048)
    best = 0.0
    for _ in range(6):
        begun = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - begun))
    return best


class Networks:
    """Those of a preset, untrained."""

    def __init__(self, preset: str, way: str) -> None:
        torch.manual_seed(0)
        self.config = load_config([f"preset={preset}"])
        self.dim, self.way = Shapes(self.config).text_dim, way
        self.shape = translator_config(self.config, self.dim)
        self.critic = PatchDiscriminator(discriminator_config(self.config))
        self.side = self.config.images.size

    def finished(self, network: torch.nn.Module) -> None:
        """In the way that is measured."""
        if self.way == "compiled":
            network.compile(dynamic=False)
            self.critic.compile(dynamic=False)

    def base(self) -> tuple[Callable[[], object], int]:
        recipe = base_recipe(self.config.base)
        training = BaseTraining(make_target(self.shape), self.critic, recipe)
        self.finished(training.translator)
        x = torch.rand(recipe.batch, 3, self.side, self.side)
        tokens = torch.randn(recipe.batch, TOKENS, self.dim)
        mask = torch.ones(recipe.batch, TOKENS, dtype=torch.bool)
        return lambda: training.step(x, x, tokens, mask), recipe.batch

    def adapters(self) -> tuple[Callable[[], object], int]:
        c, lora = self.config, self.config.lora
        base = frozen_target(self.shape)
        translator = AdaptedTranslator(base, lora.rank, lora.ranks, lora.seed)
        self.finished(translator.network)
        recipe = replace(collection_recipe(c.gans, STEPS), warmup=0)
        count = 8 if self.side <= 32 else 4
        shape = (16, 3, self.side, self.side)
        data = [
            ConceptData(
                str(i),
                *(torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2)),
                torch.randn(TOKENS, self.dim),
            )
            for i in range(count)
        ]
        starts = [translator.zero_adapter()] * count
        call = lambda: train_adapters(translator, data, starts, recipe, self.critic, 0)  # noqa: E731
        return call, STEPS * recipe.batch * count


def measured(call: Callable[[], object], images: int, flops: float, peak: float) -> dict[str, Any]:
    begun = time.perf_counter()
    call()
    first = time.perf_counter() - begun
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        call()
        calls += 1
    took = (time.perf_counter() - begun) / calls
    return {
        "images/s": round(images / took, 1),
        "part of the core's peak": round(flops / took / peak, 3),
        "seconds of the first call": round(first, 1),
    }


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # nothing is compiled already
    peak = peak_flops()
    rows = []
    for preset in given.get("presets", "small,workstation").split(","):
        for what in ("base", "adapters"):
            counted, images = getattr(Networks(preset, WAYS[0]), what)()
            flops = count_flops(counted)
            for way in WAYS:
                call, _ = getattr(Networks(preset, way), what)()
                row = {"preset": preset, "training of": what, "way": way}
                rows.append(row | measured(call, images, flops, peak))
                print(json.dumps(rows[-1]), flush=True)
    together = {
        preset: [asdict(a) for a in arrangements(load_config([f"preset={preset}"]))]
        for preset in ALL_CORES
    }
    result = {
        "command": "python -m tests.bench.cpu_training",
        "machine": machine(),
        "commit": provenance()["commit"],
        "torch": torch.__version__,
        "peak_gflops": round(peak / 1e9, 1),
        "one thread": rows,
        "all cores": together,
    }
    (RESULTS / "cpu_training.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
