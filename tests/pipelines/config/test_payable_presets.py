"""The presets that people can pay: what they promise, by the plan, and what they are made of.

That each runs, with tiny models, is tests/pipelines/stages/test_payable_presets.py.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

import pipelines.config
from modeling.concepts.planning import plan_concepts
from modeling.cost import GeneratorCost
from modeling.editors.diffusion.recipes import recipes
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.plan.command import make_plan
from pipelines.plan.counts import concept_counts
from pipelines.plan.outcome import Plan
from pipelines.plan.rates import assumed
from pipelines.plan.shapes import Shapes
from pipelines.stages.weight_generators import generator_config

PRESET_FILES = (Path(pipelines.config.__file__).parent / "presets").glob("*.yaml")
RESULTS = Path(__file__).parents[2] / "bench" / "results"
PRESETS = ("workstation", "node", "paper-lean")


@cache
def planned(preset: str) -> tuple[Config, Shapes, Plan]:
    config = load_config([f"preset={preset}"])
    shapes = Shapes(config)
    return config, shapes, make_plan(config, shapes, assumed(config, shapes))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_plan_is_the_one_that_is_committed(preset: str) -> None:
    """`denoised-weights plan preset=… json=tests/bench/results/plan_….json` made it."""
    told = json.loads((RESULTS / f"plan_{preset.replace('-', '_')}.json").read_text())
    _, _, plan = planned(preset)
    assert told["held_hours"] == pytest.approx(plan.held_hours, rel=0.01)
    assert told["wall_hours"] == pytest.approx(plan.wall_hours, rel=0.01)


def test_each_keeps_its_promise_by_the_plan() -> None:
    assert planned("workstation")[2].wall_hours <= 12 and planned("workstation")[2].devices == 1
    assert planned("node")[2].wall_hours <= 24 and planned("node")[2].devices == 8
    assert planned("paper-lean")[2].held_hours <= planned("paper")[2].held_hours / 20


@pytest.mark.parametrize("preset", PRESETS)
def test_every_module_can_be_built(preset: str) -> None:
    """Without memory: Shapes has built translator, discriminator and blocks. The baselines of every
    preset are test_baselines.py's."""
    config, shapes, _ = planned(preset)
    assert shapes.cost.weights > 0 and shapes.cost.critic_weights > 0
    model = GeneratorCost(generator_config(config, shapes.layout.n_blocks, shapes.text_dim))
    assert model.weights > 0
    assert recipes()[config.editor].side == config.editing.size


def test_the_larger_ones_have_the_paper_s_network() -> None:
    paper = planned("paper")[1]
    for preset in ("node", "paper-lean"):
        shapes = planned(preset)[1]
        assert shapes.layout.n_blocks == paper.layout.n_blocks == 854
        assert shapes.cost.weights == paper.cost.weights


@pytest.mark.parametrize("preset", sorted(p.stem for p in PRESET_FILES))
def test_the_grammar_has_as_many_concepts_as_a_preset_wants(preset: str) -> None:
    config = load_config([f"preset={preset}"])
    if config.concepts.source != "grammar":
        return  # a language model writes until there are enough
    counts = concept_counts(config)
    for seed in (0, 1):
        made = [c for c in plan_concepts(config.concepts, seed) if c.origin != "paraphrased"]
        train = [c for c in made if c.split == "train"]
        assert sum(c.adapter for c in train) == counts.train
        assert sum(not c.adapter for c in train) == counts.paired


def test_counts() -> None:
    few, many, all_of = (concept_counts(planned(preset)[0]) for preset in PRESETS)
    assert 200 <= few.train <= 600 and few.paired >= 2000
    assert 1900 <= many.train <= 2200 and many.paired == 20_000
    assert all_of.texts == concept_counts(planned("paper")[0]).texts == 97_676
    assert all_of.train + all_of.paired == concept_counts(planned("paper")[0]).train
