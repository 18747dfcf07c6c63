"""Several concepts in one batch: `python -m tests.bench.together [--small] [sizes=…] [out=FILE]`.

Forward and backward of the translator with the adapters of G concepts, by each way
(modeling/targets/lora.py) and by PEFT, one concept at a time (left out where peft is missing);
and of their discriminators. On a GPU if there is one, else on one thread. A step's seconds are the
least of three; processor seconds on a CPU, so that a busy machine counts for little. Sizes are
`small`, `workstation` and `paper`, as the presets of these names (sides of 64 on a CPU), G up to
64. Needs torch, numpy and safetensors; rows that are in FILE already are kept, a row that fails
says why.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeling.targets.adapter_training import Critics
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target
from modeling.targets.lora import MERGED, VMAP, WAYS, AdaptedTranslator, stack
from modeling.targets.shapes import DiscriminatorConfig, TranslatorConfig
from tests.bench.gpu import about
from tests.bench.gpu_rows import PAPER_RANKS, TOKENS, now

REPEATS = 3
PEFT = "PEFT, one at a time"


class Size(NamedTuple):
    translator: TranslatorConfig
    critic: DiscriminatorConfig
    side: int
    rank: int
    ranks: dict[str, int]
    counts: tuple[int, ...]
    batches: tuple[int, ...]


def sizes(device: str) -> dict[str, Size]:
    """On a CPU smaller sides and fewer concepts: a step of the paper's takes minutes there."""
    gpu = device == "cuda"
    many = (1, 2, 4, 8, 16, 32, 64)
    small = TranslatorConfig(width=16, downs=1, edge_kernel=3, heads=4, text_dim=384)
    workstation = TranslatorConfig(width=32, downs=2, edge_kernel=7, heads=4, text_dim=384)
    paper = TranslatorConfig(
        width=64, downs=2, feed_forward=4, gated=True, dropout=0.1, text_dim=768
    )
    return {
        "small": Size(
            *(small, DiscriminatorConfig(width=16, layers=2), 32, 1, {}),
            many,
            (8,),
        ),
        "workstation": Size(
            *(workstation, DiscriminatorConfig(width=32), 128 if gpu else 64, 2, {}),
            many if gpu else (1, 4, 16),
            (8,),
        ),
        "paper": Size(
            *(paper, DiscriminatorConfig(), 256 if gpu else 64, 6, PAPER_RANKS),
            many if gpu else (1, 4),
            (8, 32) if gpu else (4,),
        ),
    }


SMALL = {
    "tiny": Size(
        TranslatorConfig(width=4, downs=1, edge_kernel=3, heads=2, text_dim=8, dropout=0.1),
        *(DiscriminatorConfig(width=4, layers=1), 16, 2, {}),
        (1, 2),
        (2,),
    )
}


class Concepts:
    """A base and the adapters, pictures and prompts of G concepts, all random."""

    def __init__(self, size: Size, count: int, batch: int, device: str) -> None:
        torch.manual_seed(0)
        self.size, self.device = size, device
        self.base = frozen_target(size.translator)
        self.translator = AdaptedTranslator(self.base, size.rank, size.ranks).to(device)
        zero = self.translator.zero_adapter()
        one = {k: v + 0.02 * torch.randn_like(v) for k, v in zero.items()}
        self.adapters = {k: v.requires_grad_() for k, v in stack([one] * count).items()}
        shape = (count, batch, 3, size.side, size.side)
        self.x = torch.rand(shape, device=device) * 2 - 1
        self.tokens = torch.randn(count, TOKENS, size.translator.text_dim, device=device)
        self.mask = torch.ones(count, TOKENS, dtype=torch.bool, device=device)
        critic = PatchDiscriminator(size.critic).to(device)
        self.critics = {way: Critics(critic, count, 1e-3, way) for way in (MERGED, VMAP)}

    def translated(self, way: str) -> None:
        self.translator.network.train()
        out = self.translator.translate(self.adapters, self.x, self.tokens, self.mask, way)
        self._backward(out)

    def judged(self, way: str) -> None:
        source, image = self.x, self.x.flip(0)
        critics = self.critics[way]
        self._backward(critics.judge(critics.params, source, image))

    def by_peft(self) -> Callable[[str], None]:
        from peft import get_peft_model, set_peft_model_state_dict

        model = get_peft_model(copy.deepcopy(self.base), self.translator.lora_config)
        set_peft_model_state_dict(model, {k: v[0].detach() for k, v in self.adapters.items()})
        model.to(self.device).train()

        def step(way: str) -> None:
            for i in range(len(self.x)):
                self._backward(model(self.x[i], self.tokens[i : i + 1], self.mask[i : i + 1]))

        return step

    def _backward(self, out: Tensor) -> None:
        out.square().mean().backward()


def measured(make: Callable[[], Callable[[], None]], device: str) -> dict[str, Any]:
    """Seconds and, of a GPU, the most memory of a step; or what went wrong."""
    cuda = device == "cuda"
    clock = (lambda: now(device)) if cuda else time.process_time
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = make()
        step()
        taken = []
        for _ in range(REPEATS):
            begun = clock()
            step()
            taken.append(clock() - begun)
    except Exception as error:  # a way that a machine lacks, or that does not fit, is a row too
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    finally:
        gc.collect()
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return {"seconds": round(min(taken), 6), "peak_mib": peak}


def rows(of: dict[str, Size], device: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """What a row is about, and the way to measure it."""
    for name, size in of.items():
        for batch in size.batches:
            for count in size.counts:
                about = {"size": name, "side": size.side, "batch": batch, "concepts": count}

                def made(
                    call: str, way: str, s: Size = size, g: int = count, b: int = batch
                ) -> Callable[[], None]:
                    concepts = Concepts(s, g, b, device)
                    step = concepts.by_peft() if way == PEFT else getattr(concepts, call)
                    return lambda: step(way)

                for way in (*WAYS, PEFT):
                    row = {"network": "translator", **about, "way": way}
                    yield row, lambda way=way, made=made: made("translated", way)
                for way in (MERGED, VMAP):
                    row = {"network": "discriminators", **about, "way": way}
                    yield row, lambda way=way, made=made: made("judged", way)


def main(words: list[str]) -> int:
    given = dict(w.partition("=")[::2] for w in words if "=" in w)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    small = "--small" in words
    of = SMALL if small else sizes(device)
    if "sizes" in given:
        of = {name: of[name] for name in given["sizes"].split(",")}
    out = Path(given["out"]) if "out" in given else None
    result = json.loads(out.read_text()) if out and out.exists() else {"rows": []}
    known = {_key(row) for row in result["rows"]}
    head = {k: v for k, v in about(device, small).items() if k != "sizes"}
    head["command"] = "python -m tests.bench.together" + (" --small" if small else "")
    for row, make in rows(of, device):
        if _key(row) in known:
            continue
        result["rows"].append(row | measured(make, device))
        print(json.dumps(result["rows"][-1], ensure_ascii=False), file=sys.stderr, flush=True)
        if out:
            out.write_text(json.dumps(head | result, indent=1, ensure_ascii=False) + "\n")
    if not out:
        print(json.dumps(head | result, indent=1, ensure_ascii=False))
    return 0


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("network", "size", "side", "batch", "concepts", "way"))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
