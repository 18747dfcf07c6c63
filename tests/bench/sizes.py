"""Pictures of other sizes than the training's: `python -m tests.bench.sizes run_dir=…`.

Avatars drawn at several sizes with their true edits, through collected adapters, one of each family
of a finished run: at their own size, at the training size and enlarged, and with the change alone
enlarged and added (modeling/targets/any_size.py), at the training size and larger ones. Mean L1 to
the true edit. Writes tests/bench/results/sizes.json.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.concepts.concept import Concept
from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source, source_ids
from modeling.targets.adapter_training import to_unit
from modeling.targets.any_size import at_own_size
from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts, load_text
from pipelines.stages.gans import load_adapter

RESULT = Path(__file__).parent / "results" / "sizes.json"
SIZES, TIMES, AVATARS, FIRST = (32, 48, 64, 128, 256), (1, 1.5, 2, 4), 6, 5000


def main(words: list[str]) -> int:
    config = load_config(words)
    run = RunDir(config.run_dir)
    translator, _ = load_base(config, run)
    texts, size, multiple = load_text(run), config.images.size, translator.multiple
    scores: dict[tuple[str, int], list[float]] = defaultdict(list)
    chosen = one_of_each(run)
    for concept in chosen:
        adapter = load_adapter(run, f"adapters/{concept.concept_id}")
        tokens = texts[concept.concept_id].tokens
        mask = torch.ones(len(tokens), dtype=torch.bool)

        def edit(
            x: Tensor, adapter: Any = adapter, tokens: Tensor = tokens, mask: Tensor = mask
        ) -> Tensor:
            with torch.no_grad():
                return translator(adapter, x, tokens, mask).clamp(-1, 1)

        for side in SIZES:
            sources = [
                load_source(i, "avatars", side) for i in source_ids("avatars", AVATARS, FIRST)
            ]
            edits: Any = make_editor("avatar").edit(sources, concept)
            source, truth = unit([s.image for s in sources]), unit([e.image for e in edits])
            for how, made in ways(edit, source, size, multiple).items():
                scores[how, side].append(float((made - truth).abs().mean()))
    result = {
        "training size": size,
        "families": sorted({"+".join(c.families) for c in chosen}),
        "l1": {
            how: {
                side: round(float(np.mean(scores[how, side])), 5)
                for side in SIZES
                if scores[how, side]
            }
            for how in dict.fromkeys(how for how, _ in scores)
        },
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result["l1"], indent=1))
    return 0


def one_of_each(run: RunDir) -> list[Concept]:
    """A collected concept of each family, drawn."""
    collected = {f.split("/")[1] for f in run.files("adapters") if f.endswith("/metrics.json")}
    by_family: dict[str, list[Concept]] = defaultdict(list)
    for concept in load_concepts(run):
        if concept.concept_id in collected:
            by_family["+".join(concept.families)].append(concept)
    draw = random.Random(0)
    return [draw.choice(concepts) for _, concepts in sorted(by_family.items())]


def unit(pictures: list[np.ndarray]) -> Tensor:
    return to_unit(torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()))


def ways(
    edit: Callable[[Tensor], Tensor], x: Tensor, size: int, multiple: int
) -> dict[str, Tensor]:
    """How a square picture may be edited."""
    side = x.shape[-1]

    def resized(y: Tensor, to: int) -> Tensor:
        return F.interpolate(
            y, size=(to, to), mode="bicubic", align_corners=False, antialias=True
        ).clamp(-1, 1)

    out = {"left alone": x, "at its own size": edit(x)}
    if side > size:
        out["at the training size, enlarged"] = resized(edit(resized(x, size)), side)
    for times in TIMES:
        work = round(size * times / multiple) * multiple
        if work < side or times == 1:
            out[f"change at {times:g} × the training size"] = at_own_size(edit, x, work, multiple)
    return out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
