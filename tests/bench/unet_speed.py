"""How many blocks a second the 1-D UNet is trained on: `python -m tests.bench.unet_speed`.

One step of Eq. (1), forward, backward and AdamW, on one thread, at the shapes of `preset=small`:
the block transformer, the UNet at its full resolution (the paper's) and with neighbouring weights
folded into channels, few and many blocks in a call, convolutions over places as they are and in
bfloat16. Writes tests/bench/results/unet_speed.json.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from modeling.weights.interface import GeneratorConfig, TextBatch
from modeling.weights.weight_generator import build, denoising_loss
from pipelines.runtime.machine import machine

RESULT = Path(__file__).parent / "results" / "unet_speed.json"
SECONDS = 6.0
BLOCKS, TOKENS, DIM = 110, 8, 384
SHARED: dict[str, Any] = {
    **{"block_size": 128, "n_blocks": BLOCKS, "text_dim": DIM, "heads": 4, "width": 128},
    **{"prediction": "x0", "schedule": "squaredcos_cap_v2", "block_conditioning": "index"},
}
FULL = {"kind": "unet", "depth": 1, "channels": [32, 64], "fold": 1}
FOLDED = {"kind": "unet", "depth": 1, "channels": [64, 128], "fold": 16}
ROWS: dict[str, tuple[dict[str, Any], int, int, bool]] = {
    # shape, concepts and blocks of each in a call, bfloat16
    "block transformer": ({"kind": "transformer", "depth": 3}, 16, BLOCKS, False),
    "UNet, full resolution, 12 blocks of one concept in a call": (FULL, 1, 12, False),
    "UNet, full resolution": (FULL, 16, 48, False),
    "UNet, folded, 12 blocks of one concept in a call": (FOLDED, 1, 12, False),
    "UNet, folded": (FOLDED, 16, 48, False),
    "UNet, folded, bfloat16": (FOLDED, 16, 48, True),
}


def main() -> int:
    torch.set_num_threads(1)
    rows = {name: round(speed(*row)) for name, row in ROWS.items()}
    result = {"blocks a second": rows, "machine": machine()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))
    return 0


def speed(shape: dict[str, Any], concepts: int, blocks: int, narrow: bool) -> float:
    torch.manual_seed(0)
    model = build(GeneratorConfig.from_dict(SHARED | shape))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule, mask = model.config.noise_schedule(), torch.ones(blocks, 128, dtype=torch.bool)
    visible = torch.ones(concepts, TOKENS, dtype=torch.bool)
    text = TextBatch(torch.randn(concepts, TOKENS, DIM), visible, torch.randn(concepts, DIM))

    def step() -> None:
        x0, eps = torch.randn(2, concepts, blocks, 128)
        t = torch.randint(800, 1000, (concepts,))
        with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
            places = torch.arange(blocks)
            loss = denoising_loss(model, schedule, x0, places, mask, text, t, eps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    step()
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        step()
        steps += 1
    return steps * concepts * blocks / (time.perf_counter() - begun)


if __name__ == "__main__":
    raise SystemExit(main())
