"""How fast the paper's networks are on the machine at hand: `python -m tests.bench.paper_speed`.

Images a second of adapter training (Eq. 4, with the discriminator) with the `paper` preset's
translator at 256×256, in several precisions, one concept at a time and several fused; and the time
of predicting all 854 blocks of one adapter with the paper's UNet and with a block transformer.
Random weights: speed does not depend on them. Writes results/paper_speed_DEVICE.json. Needs
neither Ray nor a finished run. The paper's times on one H100 give 190 images/s of fine-tuning
(400 images × 20 epochs in 42.1 s) and 1.19 s for the prediction.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modeling.targets.adapter_training import ConceptData, train_adapters
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.recipe import Recipe
from modeling.targets.shapes import DiscriminatorConfig
from modeling.weights.codec import BlockLayout
from modeling.weights.interface import GeneratorConfig, TextBatch
from modeling.weights.weight_generator import build, predict_blocks
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.machine import machine
from pipelines.stages.base import translator_config

RESULTS = Path(__file__).parent / "results"
CLIP, TOKENS = 768, 12
PRECISIONS = ("fp32", "tf32", "bf16")


@contextlib.contextmanager
def precision(name: str, device: str) -> Any:
    """fp32 throughout, TF32 in matrix products and convolutions, or bfloat16 autocast."""
    torch.backends.cudnn.allow_tf32 = name != "fp32"
    torch.set_float32_matmul_precision("high" if name != "fp32" else "highest")
    if name == "bf16":
        with torch.autocast(device, torch.bfloat16):
            yield
    else:
        yield


def translator(config: Config) -> AdaptedTranslator:
    torch.manual_seed(0)
    network = frozen_target(translator_config(config, CLIP))
    return AdaptedTranslator(network, config.lora.rank, config.lora.ranks)


def training_speed(config: Config, device: str, steps: int) -> list[dict[str, Any]]:
    """images/s of each precision, by the number of concepts trained at once."""
    adapted = translator(config).to(device)
    critic = PatchDiscriminator(DiscriminatorConfig(**vars(config.discriminator))).to(device)
    g, out = config.adapt, []
    images = torch.randint(0, 256, (2, 16, 3, config.images.size, config.images.size))
    source, edited = images.to(torch.uint8).to(device)
    for name in PRECISIONS if device == "cuda" else ("fp32", "bf16"):
        for count in (1, 4, 8) if device == "cuda" else (1,):
            concepts = [
                ConceptData(str(i), source, edited, torch.randn(TOKENS, CLIP, device=device))
                for i in range(count)
            ]
            recipe = Recipe(steps=steps, batch=g.batch, lr=g.lr)
            with precision(name, device):
                starts = [adapted.zero_adapter()] * count
                warm = Recipe(steps=2, batch=g.batch, lr=g.lr)
                train_adapters(adapted, concepts, starts, warm, critic, 0)
                (first, *_) = train_adapters(adapted, concepts, starts, recipe, critic, 0)
            speed = count * steps * g.batch / first.seconds
            out.append({"precision": name, "concepts": count, "images_per_s": round(speed, 2)})
            print(json.dumps(out[-1]), flush=True)
    return out


def seconds(call: Callable[[], object], device: str, times: int) -> float:
    """Median wall-clock of a call, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def prediction_times(config: Config, device: str, times: int) -> list[dict[str, Any]]:
    """Seconds to predict one adapter in one step, 64 blocks a call for the UNet.

    On a CPU only one call of the UNet is timed, in float32, and taken for all 14.
    """
    adapted = translator(config)
    size = config.weights.block_size
    layout = BlockLayout.build(adapted.shapes, adapted.groups, config.weights.grouping, size)
    g = config.generator
    kinds = {
        "unet": {"width": g.width, "depth": g.depth, "channels": tuple(g.channels)},
        "transformer": {"width": 768, "depth": 12},
    }
    mask = torch.ones(1, TOKENS, dtype=torch.bool, device=device)
    text = TextBatch(
        torch.randn(1, TOKENS, CLIP, device=device), mask, torch.randn(1, CLIP, device=device)
    )
    out = []
    for kind, shape in kinds.items():
        torch.manual_seed(0)
        shared = {"block_size": size, "n_blocks": layout.n_blocks, "text_dim": CLIP}
        made = GeneratorConfig.from_dict({"kind": kind, **shared, "heads": g.heads, **shape})
        model = build(made).to(device).eval()
        schedule = made.noise_schedule()
        part = device == "cpu" and kind == "unet"

        def predict(model: Any = model, schedule: Any = schedule, part: bool = part) -> None:
            if part:
                with torch.no_grad():
                    first = torch.randn(1, 64, size), torch.tensor([999]), torch.arange(64)
                    model(*first, *text)
            else:
                predict_blocks(model, schedule, text, config.adapt.t, seed=0)

        for name in PRECISIONS if device == "cuda" else ("fp32",):
            with precision(name, device):
                taken = seconds(predict, device, times) * (-(-layout.n_blocks // 64) if part else 1)
            out.append(
                {
                    "kind": kind,
                    "weights": sum(p.numel() for p in model.parameters()),
                    "blocks": layout.n_blocks,
                    "precision": name,
                    "seconds": round(taken, 4),
                    "extrapolated": part,
                }
            )
            print(json.dumps(out[-1]), flush=True)
        del model
    return out


def main() -> int:
    load = os.getloadavg()
    config = load_config(["preset=paper"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = {
        "command": "python -m tests.bench.paper_speed",
        "training": training_speed(config, device, 50 if device == "cuda" else 4),
        "prediction": prediction_times(config, device, 10 if device == "cuda" else 1),
        "threads": torch.get_num_threads(),
        "load_average_before": load,
        "machine": machine(),
    }
    path = Path(RESULTS, f"paper_speed_{device}.json")
    path.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
