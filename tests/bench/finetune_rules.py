"""Rules of optimisation for the short fine-tune: `python -m tests.bench.finetune_rules run_dir=…
[rule=…] [key=value …]`.

From the predictions for the first concepts of each validation set of a finished run, by each rule
at three rates: mean L1 to the true edit of evaluate.images unseen pictures after 3, 12 and 48 steps
of adapt.batch pairs of the coreset, cosine decay. Rows that are there already are kept, so that it
goes on where it was stopped. Writes tests/bench/results/finetune_rules.json.

- `factors`: Adam on A and B, as published.
- `basis`: Adam in the collection's basis (modeling/weights/gradient_basis.py), the run's recipe.
- `soap`: Adam on the blocks, rotated by the eigenvectors of this concept's own gradients' second
  moment as it goes (Vyas et al. 2024), found anew every four steps.
- `canonical`: Adam on the factors of the product's singular value decomposition, B = U √S and
  A = √S V, which says the same by one pair of factors alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling.targets.adapter_training import batch_order, to_uint8, to_unit
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import Adapter
from modeling.targets.recipe import finetune_recipe
from pipelines.config.load import load_config
from pipelines.config.tree import to_dict
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import cut
from pipelines.stages.concepts import load_concepts
from pipelines.stages.finetuning import Adapting
from pipelines.stages.judging import Judge

RESULT = Path(__file__).parent / "results" / "finetune_rules.json"
LOOKS, CONCEPTS = (3, 12, 48), 6
RATES = {
    "factors": (0.005, 0.01, 0.02),
    "basis": (0.2, 0.4, 0.8),
    "soap": (0.1, 0.2, 0.4),
    "canonical": (0.005, 0.01, 0.02),
}
REFRESH, DECAY = 4, 0.95
"""Steps between two bases of `soap`, and the decay of its second moment of gradients."""


class Coordinates:
    """What Adam sees of one adapter, and the way back."""

    def __init__(self, stage: Adapting, rule: str, start: Adapter) -> None:
        self.rule, self.start = rule, start
        decoder = stage.decoder
        self.layout, self.normalisation = decoder.layout, decoder.normalisation
        if rule == "basis":
            self.turn = stage.finetune.coordinates(replace(stage.config.adapt, basis=True))
        if rule == "soap":
            n, b = self.layout.n_blocks, self.layout.block_size
            self.vectors = torch.eye(b).repeat(n, 1, 1)
            self.moment = torch.zeros(n, b, b)

    def first(self) -> Adapter:
        if self.rule == "canonical":
            return canonical(self.start)
        if self.rule == "basis":
            return self.turn.of({k: v[None] for k, v in self.start.items()})
        if self.rule == "soap":
            return {"blocks": self.normalisation.apply(self.layout.to_blocks(self.start))}
        return dict(self.start)

    def adapter(self, values: Adapter) -> Adapter:
        if self.rule == "basis":
            return {k: v[0] for k, v in self.turn.adapters(values).items()}
        if self.rule == "soap":
            return self.layout.from_blocks(self.normalisation.invert(values["blocks"]))
        return values


def canonical(adapter: Adapter) -> Adapter:
    """The same products B·A, by the factors of their singular value decomposition."""
    out = dict(adapter)
    for key in [k for k in adapter if ".lora_A." in k]:
        other = key.replace(".lora_A.", ".lora_B.")
        down, up = adapter[key], adapter[other]
        u, s, v = torch.linalg.svd(up.flatten(1) @ down.flatten(1), full_matrices=False)
        rank = len(down)
        root = s[:rank].sqrt()
        out[key] = (root[:, None] * v[:rank]).reshape(down.shape)
        out[other] = (u[:, :rank] * root).reshape(up.shape)
    return out


class Soap:
    """Adam in the eigenvectors of the gradients' second moment, block by block."""

    def __init__(self, coordinates: Coordinates) -> None:
        self.c, self.steps = coordinates, 0
        shape = coordinates.vectors.shape[:2]
        self.mean, self.square = torch.zeros(shape), torch.zeros(shape)

    def step(self, values: Adapter, rate: float) -> None:
        c, grad = self.c, values["blocks"].grad
        assert grad is not None
        self.steps += 1
        c.moment.mul_(DECAY).add_((1 - DECAY) * grad[:, :, None] * grad[:, None])
        if (self.steps - 1) % REFRESH == 0:
            there = torch.linalg.eigh(c.moment + 1e-12 * torch.eye(grad.shape[1])).eigenvectors
            # what Adam remembers, in the new directions
            turn = c.vectors.transpose(1, 2) @ there
            self.mean = torch.einsum("nb,nbc->nc", self.mean, turn)
            self.square = torch.einsum("nb,nbc->nc", self.square, turn.square())
            c.vectors = there
        turned = torch.einsum("nb,nbc->nc", grad, c.vectors)
        self.mean.lerp_(turned, 0.5)
        self.square.lerp_(turned.square(), 0.001)
        mean = self.mean / (1 - 0.5**self.steps)
        square = self.square / (1 - 0.999**self.steps)
        change = torch.einsum("nc,nbc->nb", mean / (square.sqrt() + 1e-8), c.vectors)
        with torch.no_grad():
            values["blocks"] -= rate * change


def tuned(
    stage: Adapting, judged: Callable[[Adapter], float], concept_id: str, rule: str, lr: float
) -> list[float]:
    """L1 at LOOKS."""
    config = stage.config
    data = stage.data(concept_id)
    data = cut(data, image_coreset(data.source, config.adapt.coreset, config.seed))
    (start,) = stage.predict([concept_id])
    coordinates = Coordinates(stage, rule, start)
    values = {k: v.detach().clone().requires_grad_() for k, v in coordinates.first().items()}
    settings = replace(config.adapt, steps=LOOKS[-1], basis=rule in ("basis", "soap"))
    recipe = replace(finetune_recipe(settings), lr=lr)
    adam = torch.optim.Adam(values.values(), lr=lr, betas=(0.5, 0.999))
    soap = Soap(coordinates) if rule == "soap" else None
    text = stage.texts[concept_id].tokens
    mask = torch.ones(len(text), dtype=torch.bool)
    scores = []
    order = batch_order(len(data.source), recipe.steps, recipe.batch, config.seed)
    for step, index in enumerate(order):
        source, edited = to_unit(data.source[index]), to_unit(data.edited[index])
        made = stage.translator(coordinates.adapter(values), source, text, mask)
        loss = recipe.l1_weight * (made - edited).abs().mean()
        adam.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = recipe.rate(step)
        if soap:
            soap.step(values, recipe.rate(step))
        else:
            adam.step()
        if step + 1 in LOOKS:
            kept = coordinates.adapter({k: v.detach() for k, v in values.items()})
            scores.append(judged(kept))
    return scores


def main(words: list[str]) -> int:
    given = dict(w.partition("=")[::2] for w in words)
    rules = [given.pop("rule")] if "rule" in given else list(RATES)
    config = load_config([*(f"{k}={v}" for k, v in given.items()), "adapt.split=val"])
    run = RunDir(config.run_dir)
    stage, judge = Adapting(to_dict(config), run), Judge(config, run)
    chosen: dict[str, list[Any]] = {}
    for concept in load_concepts(run):
        if concept.split == "val":
            chosen.setdefault(concept.heldout or "atoms", []).append(concept)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"steps": LOOKS, "rows": {}}
    for rule in rules:
        for lr in RATES[rule]:
            name = f"{rule}, {lr:g}"
            if name in result["rows"]:
                continue
            row = {}
            for kind, concepts in chosen.items():
                scores = []
                for concept in concepts[:CONCEPTS]:
                    scores.append(
                        tuned(stage, scorer(stage, judge, concept), concept.concept_id, rule, lr)
                    )
                row[kind] = [round(float(v), 5) for v in np.mean(scores, axis=0)]
            result["rows"][name] = row
            result |= {"concepts": CONCEPTS, "machine": machine()}
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
            print(name, row, flush=True)
    return 0


def scorer(stage: Adapting, judge: Judge, concept: Any) -> Callable[[Adapter], float]:
    judged = judge.judged(concept, 0, stage.config.evaluate.images)
    source, truth = to_unit(judged.source), to_unit(judged.edited)
    text = stage.texts[concept.concept_id].tokens
    mask = torch.ones(len(text), dtype=torch.bool)

    @torch.no_grad()
    def score(adapter: Adapter) -> float:
        made: Tensor = to_unit(to_uint8(stage.translator(adapter, source, text, mask)))
        return float((made - truth).abs().mean())

    return score


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
