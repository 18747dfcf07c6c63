"""What pictures, concepts and editors of a run must not be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

from modeling.concepts.recipe import RESPONSE_FORMATS
from pipelines.config.derived import exact_editor, resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.ranges import choice
from pipelines.config.schema import Config
from pipelines.config.sections.data import Concepts, Llm, PerCategory

GRAMMAR_ONLY = (
    *("families", "heldout_families", "validation_families", "paired_families", "combine"),
    *("atoms_per_family", "train_atoms", "val_atoms", "val_families"),
    *("test_atoms", "test_families", "paraphrases"),
)
"""Keys of `concepts` that a language model has no use for."""


def check_concepts(c: Config) -> None:
    choice("concepts.source", c.concepts.source, ("grammar", "llm"))
    for key in ("similarity", "word_similarity", "paraphrase_similarity"):
        value = getattr(c.llm, key)
        if not -1 <= value <= 1:
            raise ConfigError(f"llm.{key}={value}: is a cosine, from -1 to 1")
    for names in c.llm.combine:
        for name in names:
            choice("llm.combine", name, [f.name for f in fields(PerCategory)])
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"llm.combine: {names} must be two or more different categories")
    roles = {"writer": c.llm.writer, "paraphraser": c.llm.paraphraser}
    for role, keys in roles.items():
        choice(f"llm.{role}.provider", keys.provider, ("endpoint", "local"))
        choice(f"llm.{role}.response_format", keys.response_format, RESPONSE_FORMATS)
    if c.concepts.source == "grammar":
        return
    if exact_editor(c):
        raise ConfigError(
            f"concepts.source=llm: the exact editor {resolve_editor(c)} can draw only what the"
            " grammar says; give a diffusion editor, such as editor=instruct_pix2pix, or"
            " concepts.source=grammar"
        )
    default = Concepts()
    foreign = [k for k in GRAMMAR_ONLY if getattr(c.concepts, k) != getattr(default, k)]
    if foreign:
        words = " ".join(f"concepts.{k}={getattr(default, k)}" for k in foreign)
        raise ConfigError(
            f"concepts.{foreign[0]} is for concepts.source=grammar; with llm give {words}"
        )
    if not any(vars(c.llm.counts).values()):
        raise ConfigError("concepts.source=llm needs llm.counts, such as llm.counts.art=226")
    for category, count in vars(c.llm.counts).items():
        held = getattr(c.llm.test, category) + getattr(c.llm.val, category)
        if held and held >= count:
            raise ConfigError(
                f"llm.counts.{category}={count}: must be more than the {held} that are held out"
            )
        if not count and getattr(c.llm.paraphrases, category):
            raise ConfigError(f"llm.paraphrases.{category}: llm.counts.{category} is 0")
    # said before anything is paid for
    most = sum(math.prod(_trained(c.llm, name) for name in names) for names in c.llm.combine)
    k = c.concepts
    wanted = k.train_combinations + k.paired_combinations + k.val_combinations
    wanted += k.test_combinations
    if wanted > most:
        raise ConfigError(
            f"concepts.*_combinations: {wanted} wanted, but the training concepts of llm.counts"
            f" make {most} by llm.combine={c.llm.combine}"
        )
    if not c.llm.encoder:
        raise ConfigError("llm.encoder: must not be empty")
    for role, keys in roles.items():
        if not keys.model and role == "paraphraser":
            continue
        if not keys.model:
            raise ConfigError("concepts.source=llm needs llm.writer.model")
        if keys.provider == "endpoint" and not keys.base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"llm.{role}.base_url={keys.base_url}: must be the endpoint's address, such as"
                " http://127.0.0.1:8000/v1"
            )


def _trained(llm: Llm, category: str) -> int:
    """Concepts of a category that are not held out."""
    count, test, val = (getattr(x, category) for x in (llm.counts, llm.test, llm.val))
    return int(count - test - val)


def check_editing(c: Config, editors: Sequence[str]) -> None:
    """editors: those that are diffusion models."""
    e = c.editing
    choice("editing.dtype", e.dtype, ("float32", "float16", "bfloat16"))
    for name in e.candidates:
        choice("editing.candidates", name, editors)
    named: dict[str, Mapping[str, object]] = {
        **{f"editing.{k}": getattr(e, k) for k in ("models", "extras", "steps", "guidance")},
        **{f"editing.{k}": getattr(e, k) for k in ("image_guidance", "strength")},
        **{f"editing.{k}": getattr(e, k) for k in ("loras", "schedulers")},
        "cluster.editor_actors": c.cluster.editor_actors,
        "cluster.editor_gpus": c.cluster.editor_gpus,
        "plan.evaluations": c.plan.evaluations,
    }
    for key, mapping in named.items():
        for name in mapping:
            if name not in editors:
                raise ConfigError(f"{key}.{name}: no such editor; there are {', '.join(editors)}")
    for name, strength in e.strength.items():
        if strength > 1:
            raise ConfigError(f"editing.strength.{name}={strength:g}: must be at most 1")
    categories = ("facial", "characteristic", "art", "combined")
    for key, templates in (("prompts", e.prompts), ("instructions", e.instructions)):
        for category, template in templates.items():
            choice(f"editing.{key}", category, categories)
            if "{text}" not in template:
                raise ConfigError(f"editing.{key}.{category}: must contain {{text}}")
    scored = ("direction", "identity", "quality")
    for name in e.exponents:
        choice("editing.exponents", name, scored)
    for name in e.least:
        choice("editing.least", name, ("change", *scored))
    if c.editor == "best" and not (e.candidates and e.clip):
        raise ConfigError(
            "editor=best compares editing.candidates by a CLIP model: give both, such as"
            " editing.clip=openai/clip-vit-large-patch14"
        )
    if not e.clip and set(e.least) & set(scored):
        raise ConfigError(f"editing.least.{min(set(e.least) & set(scored))} needs editing.clip")
    if e.least_images > 1:
        raise ConfigError(f"editing.least_images={e.least_images}: is a part, at most 1")
    exact = exact_editor(c)
    if exact and (e.least or e.clip):
        key = "least" if e.least else "clip"
        raise ConfigError(f"editing.{key} is for diffusion editors, and the editor is an exact one")
