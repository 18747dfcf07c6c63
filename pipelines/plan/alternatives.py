"""Changes of a configuration whose effect on a plan is worth knowing."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any, NamedTuple

from modeling.editors.diffusion.recipes import recipes
from pipelines.config import tree as config_tree
from pipelines.config.checks import check
from pipelines.config.schema import Config
from pipelines.plan.counts import candidate_editors
from pipelines.plan.rates import Rates

FEW_STEPS = "sd_turbo"
"""The cheapest of modeling/editors/diffusion/recipes.yaml."""
UNKNOWN = "not measured"
COMPARED = "none to the weight generator; what it is compared with is missing"
FEWER = (
    "at 32×32, of 651 concepts: L1 0.157 → 0.199 on unseen combinations, 0.090 → 0.095 after 12"
    " steps (docs/results.md)"
)
NO_IMAGES = (
    "at 32×32, none in place of 400: L1 0.157 → 0.247 on unseen combinations, 0.090 → 0.099 after"
    " 12 steps; half of them not measured (docs/results.md)"
)


class Change(NamedTuple):
    """A change worth knowing the effect of."""

    what: str
    keys: dict[str, Any]
    """That make it."""
    quality: str
    """What it does to the result, where that was measured."""


HALVES = (
    ("editing.pilots", "half the images to choose an editor on", UNKNOWN),
    ("images.count", "half the images a concept", UNKNOWN),
    ("concepts.train_combinations", "half the combinations", FEWER),
    ("concepts.paired_combinations", "half the combinations without an adapter", UNKNOWN),
    ("gans.steps", "half the steps of an adapter", UNKNOWN),
    ("base.steps", "half the steps of the base", UNKNOWN),
    ("generator.steps", "half the steps of the weight generator", UNKNOWN),
    ("generator.image_steps", "half its steps on the image loss", NO_IMAGES),
    ("repeats", "fewer seeds", "wider intervals, the same means"),
    ("evaluate.scratch_concepts", "half as many concepts trained from scratch", COMPARED),
)
"""Keys of which half is tried."""


def alternatives(config: Config, rates: Rates) -> list[Change]:
    """All that are possible for this configuration."""
    c, out = config, []
    values = config_tree.flat(config_tree.to_dict(c))
    editors = candidate_editors(c)
    if len(editors) > 1:
        out += [Change(f"{e} alone", {"editor": e}, UNKNOWN) for e in editors]
        slowest = min(editors, key=lambda e: rates.table[f"edit {e}"].per_second)
        fewer = {"editing.candidates": [e for e in editors if e != slowest]}
        out.append(Change(f"without {slowest}, the slowest editor", fewer, UNKNOWN))
    if "null_text" in editors and c.editing.inversions < c.images.count:
        kept = {"editing.inversions": c.images.count}
        what = "null-text inversion of an image once for all concepts"
        out.append(Change(what, kept, "the same pictures"))
    if any(rates.table[f"edit {e}"].flops for e in editors) and not set(editors) <= set(recipes()):
        few = {"editor": FEW_STEPS}
        out.append(Change("one editor of four steps without guidance", few, UNKNOWN))
    for key, what, quality in HALVES:
        if values[key] >= 2 and (key != "editing.pilots" or len(editors) > 1):
            out.append(Change(what, {key: values[key] // 2}, quality))
    if c.rival.train:
        out.append(Change("no rival", {"rival.train": False}, COMPARED))
    if c.evaluate.ceiling:
        what = "no adapters trained on the held-out concepts"
        out.append(Change(what, {"evaluate.ceiling": False}, COMPARED))
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
