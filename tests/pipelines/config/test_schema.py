"""The schema: every key as it always was, each declared once, and read without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from modeling.baselines.recipe import ScratchRecipe
from modeling.concepts.recipe import ConceptSpec, ModelOptions, WritingSpec
from modeling.settings import taken
from modeling.targets.recipe import (
    Recipe,
    as_published,
    base_recipe,
    collection_recipe,
    finetune_recipe,
)
from modeling.targets.shapes import SHAPES
from modeling.weights.recipe import GeneratorRecipe
from pipelines.config.load import load_config, preset_names
from pipelines.config.schema import Config
from pipelines.config.sections.training import TranslatorShape

KEYS = Path(__file__).parent / "keys.json"
"""Every key with its type and default: what users' files and commands rely on. A key that is added
is added here; one that is renamed or lost is an error."""


def keys_of(section: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted key, type, default) of all keys."""
    hints = get_type_hints(type(section))
    for f in fields(section):
        value, kind = getattr(section, f.name), hints[f.name]
        if is_dataclass(value):
            yield from keys_of(value, f"{prefix}{f.name}.")
        else:
            plain = isinstance(kind, type) and not getattr(kind, "__args__", None)
            yield f"{prefix}{f.name}", kind.__name__ if plain else str(kind), value


def test_no_key_is_lost_renamed_or_changed() -> None:
    recorded = json.loads(KEYS.read_text())
    now = {key: [kind, default] for key, kind, default in keys_of(Config())}
    assert now == recorded


def test_the_schema_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['ray'] = None;"
        "from pipelines.config.load import load_config; load_config(['preset=paper'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_section_says_what_it_is_for() -> None:
    """A dataclass without words gets Python's own, its signature."""
    sections = [getattr(Config(), f.name) for f in fields(Config)]
    for section in filter(is_dataclass, sections):
        words = type(section).__doc__ or ""
        assert words and not words.startswith(f"{type(section).__name__}("), type(section)


def test_sections_are_composed_of_the_recipes_fields() -> None:
    """Each user-settable field of a recipe is inherited from where it is declared."""
    c = Config()
    shared = [
        (c.concepts, ConceptSpec),
        (c.llm, WritingSpec),
        (c.llm.writer, ModelOptions),
        (c.base, Recipe),
        (c.gans, Recipe),
        (c.adapt, Recipe),
        (c.generator, GeneratorRecipe),
        (c.rival, GeneratorRecipe),
        (c.pix2pix, ScratchRecipe),
        (c.comodgan, ScratchRecipe),
    ]
    for section, recipe in shared:
        common = set(type(section).__mro__) & set(recipe.__mro__) - {object}
        assert common, f"{type(section).__name__} and {recipe.__name__} have no common base"


def test_a_family_reads_keys_that_there_are() -> None:
    """All of a shape's fields are the user's, but for those that are fixed or the run's."""
    there = {f.name for f in fields(TranslatorShape)}
    for shape in SHAPES.values():
        theirs = {f.name for f in fields(shape.config)} - set(shape.fixed) - {"text_dim"}
        assert theirs <= there


def test_recipes_derive_what_is_not_the_users() -> None:
    for preset in preset_names():
        c = load_config([f"preset={preset}"])
        base, short = base_recipe(c.base), finetune_recipe(c.adapt)
        assert (base.steps, base.lr, base.lr_final) == (c.base.steps, c.base.lr, 0.0)
        assert base.warmup == min(20, c.base.steps // 10) and base.clip == 0 and base.ema == 0
        basis = c.adapt.basis
        lr, warmup = (c.adapt.basis_lr, min(5, c.adapt.steps // 4)) if basis else (c.adapt.lr, 0)
        assert (short.lr, short.ema, short.clip, short.warmup) == (lr, c.adapt.ema, 1e3, warmup)
        plain = finetune_recipe(as_published(c.adapt))
        assert (plain.lr, plain.warmup) == (c.adapt.lr, 0) and as_published(
            c.adapt
        ).learned_steps == 0
        long = collection_recipe(c.gans, 90)
        assert (long.steps, long.warmup, long.ema) == (90, 5, c.gans.ema)
        assert long.lr_final == c.gans.lr_floor * c.gans.lr


def test_only_fields_that_both_have_are_taken() -> None:
    recipe = taken(Recipe, Config().gans, steps=7)
    assert (recipe.steps, recipe.batch, recipe.warmup) == (7, Config().gans.batch, 0)
