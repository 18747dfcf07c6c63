"""Changes of a configuration whose effect on a plan is worth knowing."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any

from pipelines.config import tree as config_tree
from pipelines.config.checks import check
from pipelines.config.schema import Config
from pipelines.plan.counts import candidate_editors
from pipelines.plan.rates import Rates


def alternatives(config: Config, rates: Rates) -> list[tuple[str, dict[str, Any]]]:
    """Changes worth knowing the effect of: what they are, and the keys that make them."""
    c, out = config, []

    def half(key: str, what: str) -> None:
        value = config_tree.flat(config_tree.to_dict(c))[key]
        if value >= 2:
            out.append((what, {key: value // 2}))

    editors = candidate_editors(c)
    if len(editors) > 1:
        out += [(f"{e} alone", {"editor": e}) for e in editors]
        slowest = min(editors, key=lambda e: rates.table[f"edit {e}"].per_second)
        fewer = [e for e in editors if e != slowest]
        out.append((f"without {slowest}, the slowest editor", {"editing.candidates": fewer}))
        half("editing.pilots", "half the images to choose an editor on")
    if "null_text" in editors and c.editing.inversions < c.images.count:
        key = {"editing.inversions": c.images.count}
        out.append(("null-text inversion of an image once for all concepts", key))
    if any(rates.table[f"edit {e}"].flops for e in editors):
        one = {"editor": "img2img", "plan.evaluations": {"img2img": 4}}
        out.append(("one distilled editor, 4 steps without guidance", one))
    half("images.count", "half the images a concept")
    half("concepts.train_combinations", "half the combinations")
    half("concepts.paired_combinations", "half the combinations without an adapter")
    half("gans.steps", "half the steps of an adapter")
    half("base.steps", "half the steps of the base")
    half("generator.steps", "half the steps of the weight generator")
    half("generator.image_steps", "half its steps on the image loss")
    half("repeats", "fewer seeds")
    half("evaluate.scratch_concepts", "half as many concepts trained from scratch")
    if c.rival.train:
        out.append(("no rival", {"rival.train": False}))
    if c.evaluate.ceiling:
        out.append(("no adapters trained on the held-out concepts", {"evaluate.ceiling": False}))
    return out


def changed(config: Config, keys: dict[str, Any]) -> Config:
    """A copy of the configuration with other values, checked."""
    other = copy.deepcopy(config)
    for key, value in keys.items():
        *sections, last = key.split(".")
        setattr(reduce(getattr, sections, other), last, value)
    check(other)
    return other


def in_words(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    if isinstance(value, dict):
        return "'{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}'"
    return str(value)
