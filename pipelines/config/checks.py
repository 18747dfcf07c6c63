"""What a configuration must not be: values out of range, combinations that cannot work.

Everything here raises ConfigError with one line that names the key and what it may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter

from pipelines.config.derived import exact_editor, resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.config.sections.data import Concepts, Llm, PerCategory
from pipelines.config.sections.scoring import BASELINES, COMPARED, CONTROLS
from pipelines.config.sections.training import Generator


def _choice(key: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(str(a) for a in allowed)}")


GENERATOR_LEAST = {
    "fold": 1,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "steps": 1,
    "batch": 1,
    "blocks_per_concept": 0,
    "text_noise": 0,
    "image_steps": 0,
    "image_gan": 0,
    "image_denoising": 0,
    "image_concepts": 1,
    "image_batch": 1,
    "checkpoint_every": 1,
    "workers": 1,
}
SCRATCH_LEAST = {
    "epochs": 1,
    "batch": 1,
    "l1_weight": 0,
    "gan_weight": 0,
    "constant": 0,
    "jitter": 0,
}
LANGUAGE_MODEL_LEAST = {
    "temperature": 0,
    "max_tokens": 1,
    "timeout_s": 0.001,
    "retries": 0,
    "rate": 0,
    "concurrency": 1,
    "batch": 1,
    "input_price": 0,
    "output_price": 0,
}
LEAST = {
    "seed": 0,
    "repeats": 1,
    "max_error_fraction": 0,
    "images.size": 16,
    "images.count": 10,
    "images.paired": 1,
    "editing.pilots": 1,
    "editing.batch": 1,
    "editing.size": 0,
    "editing.inversions": 0,
    "editing.part": 1,
    "editing.least_images": 0,
    **{
        f"llm.{key}.{category}": 0
        for key in ("counts", "test", "val", "paraphrases")
        for category in ("art", "characteristic", "facial")
    },
    "llm.per_request": 1,
    "llm.paraphrased_together": 1,
    "llm.round_requests": 1,
    "llm.requests": 1,
    **{f"llm.writer.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    **{f"llm.paraphraser.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    "translator.width": 4,
    "translator.downs": 1,
    "translator.edge_kernel": 1,
    "translator.blocks": 1,
    "translator.heads": 1,
    "translator.feed_forward": 1,
    "discriminator.width": 1,
    "lora.rank": 1,
    "base.concepts": 1,
    "base.steps": 1,
    "base.batch": 1,
    "base.checkpoint_every": 1,
    "base.workers": 1,
    "gans.steps": 0,
    "gans.batch": 1,
    "gans.checkpoints": 1,
    "gans.concepts_per_batch": 1,
    "gans.pilots": 1,
    "gans.pilot_steps": 1,
    "ranks.steps": 0,
    "weights.block_size": 8,
    "weights.concepts": 0,
    **{f"generator.{key}": least for key, least in GENERATOR_LEAST.items()},
    **{f"rival.{key}": least for key, least in GENERATOR_LEAST.items()},
    "adapt.steps": 0,
    "adapt.batch": 1,
    "adapt.coreset": 1,
    "adapt.ddim_steps": 1,
    "evaluate.images": 1,
    "evaluate.scratch_steps": 0,
    "evaluate.scratch_concepts": 1,
    "compare.concepts": 0,
    "compare.scratch_concepts": 0,
    "compare.scratch_repeats": 1,
    "compare.images": 2,
    "compare.epochs": 1,
    "compare.e2gan_epochs": 1,
    "compare.coreset": 1,
    "compare.timed_repeats": 1,
    **{f"pix2pix.{key}": least for key, least in SCRATCH_LEAST.items()},
    "pix2pix.width": 1,
    "pix2pix.blocks": 1,
    "pix2pix.downs": 0,
    "pix2pix.discriminator_width": 1,
    "pix2pix.discriminator_layers": 1,
    **{f"comodgan.{key}": least for key, least in SCRATCH_LEAST.items()},
    "comodgan.channel_base": 1,
    "comodgan.channel_max": 1,
    "comodgan.z_dim": 1,
    "comodgan.w_dim": 1,
    "comodgan.mapping_layers": 1,
    "comodgan.r1": 0,
    "comodgan.r1_interval": 1,
    "comodgan.ema_images": 0,
    "comodgan.path_length": 0,
    "report.pictures": 0,
    "report.concepts": 0,
    "cluster.actors": 1,
    "cluster.stall_timeout_s": 1,
    "cluster.cpus_per_actor": 0,
    "cluster.gpus_per_actor": 0,
    "cluster.training_cpus": 0,
    "cluster.least_workers": 0,
    "cluster.nodes": 1,
    "cluster.gpus_per_node": 0,
    "plan.price": 0,
    "plan.overhead_s": 0,
}
RATES = (
    "base.lr",
    "gans.lr",
    "generator.lr",
    "generator.image_lr",
    "rival.lr",
    "rival.image_lr",
    "adapt.lr",
    "pix2pix.lr",
    "pix2pix.discriminator_lr",
    "comodgan.lr",
    "comodgan.discriminator_lr",
    "plan.gpu_tflops",
    "plan.editor_tflops",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
    "plan.core_gflops",
    "plan.exact_edits_per_s",
    "plan.texts_per_s",
    "plan.texts_loaded_per_s",
    "plan.files_per_s",
    "plan.write_mb_per_s",
)
FRACTIONS = (
    "translator.dropout",
    "gans.ema",
    "generator.ema",
    "rival.ema",
    "adapt.ema",
    "pix2pix.dropout",
    "comodgan.dropout",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
)


def check(config: Config) -> None:
    """Raise ConfigError on an impossible combination."""
    from modeling.editors.registry import DIFFUSION, EXACT

    c = config
    _choice("images.source", c.images.source, ("avatars", "folder"))
    _choice("editor", c.editor, ("auto", "best", *EXACT, *DIFFUSION))
    _choice("verify", c.verify, ("content", "size"))
    _check_editing(c, tuple(DIFFUSION))
    if c.images.source == "folder" and not c.images.path:
        raise ConfigError("images.source=folder needs images.path=DIR")
    if c.images.source == "avatars" and c.images.path:
        raise ConfigError("images.path is set but images.source=avatars: use images.source=folder")
    if c.images.source == "folder" and resolve_editor(c) == "avatar":
        raise ConfigError(
            "editor=avatar edits avatars only: use editor=filter with images.source=folder"
        )
    _choice("weights.grouping", c.weights.grouping, (1, 2, 3))
    _choice("weights.centre", c.weights.centre, ("element", "tensor"))
    _choice("adapt.split", c.adapt.split, ("test", "val"))
    _choice("adapt.sampler", c.adapt.sampler, ("one_step", "ddim"))
    _choice("evaluate.features", c.evaluate.features, ("efficientnet", "inception", "clip"))
    for method in c.evaluate.controls:
        _choice("evaluate.controls", method, CONTROLS)
    for method in c.compare.methods:
        _choice("compare.methods", method, COMPARED)
    if len(set(c.compare.methods)) < len(c.compare.methods):
        raise ConfigError(f"compare.methods={c.compare.methods}: a method is given twice")
    if any(e < 1 for e in c.compare.score_at):
        raise ConfigError(f"compare.score_at={c.compare.score_at}: epochs start at 1")
    for key, least in LEAST.items():
        value = attrgetter(key)(c)
        if not least <= value < math.inf:  # nor NaN
            raise ConfigError(f"{key}={value}: must be at least {least}")
    for key in RATES:
        value = attrgetter(key)(c)
        if not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: must be more than 0")
    for key in FRACTIONS:
        value = attrgetter(key)(c)
        if not 0 <= value < 1:
            raise ConfigError(f"{key}={value}: must lie in [0, 1)")
    _check_concepts(c)
    for layer, rank in c.lora.ranks.items():
        if rank < 1:
            raise ConfigError(f"lora.ranks.{layer}={rank}: must be at least 1")
    if not 0 <= c.gans.lr_floor <= 1:
        raise ConfigError(f"gans.lr_floor={c.gans.lr_floor}: is a part of gans.lr, from 0 to 1")
    _choice("gans.pilot_score", c.gans.pilot_score, ("l1", "fd"))
    room = max(1, c.gans.steps // 4)
    if c.gans.steps and c.gans.checkpoints > room:
        raise ConfigError(
            f"gans.checkpoints={c.gans.checkpoints}: the last quarter of gans.steps={c.gans.steps}"
            f" has room for {room}"
        )
    _choice("ranks.score", c.ranks.score, ("loss", "energy"))
    if len(set(c.ranks.choices)) < 2 or min(c.ranks.choices) < 1:
        raise ConfigError(f"ranks.choices={c.ranks.choices}: two or more ranks, each at least 1")
    for key in ("run_dir", "text_encoder"):
        if not attrgetter(key)(c):
            raise ConfigError(f"{key}: must not be empty")
    _check_translator(c)
    for name in ("generator", "rival"):
        _check_generator(c, name)
    if any(not 0 < k < max(c.adapt.steps, 1) for k in c.adapt.keep):
        raise ConfigError(
            f"adapt.keep={c.adapt.keep}: must lie between 0 and adapt.steps={c.adapt.steps}"
        )
    _choice("pix2pix.norm", c.pix2pix.norm, ("batch", "instance"))
    for section in ("pix2pix", "comodgan"):
        constant = attrgetter(section)(c).constant
        if constant > 1:
            raise ConfigError(f"{section}.constant={constant}: is a part, at most 1")
    if c.evaluate.fd_images and c.evaluate.fd_images < 2048:
        raise ConfigError(
            "evaluate.fd_images: a Fréchet distance needs at least 2048 images, or 0 for none"
        )
    if c.evaluate.fd_images and not (c.images.source == "avatars" and exact_editor(c)):
        raise ConfigError(
            "evaluate.fd_images: fresh pairs exist for images.source=avatars with an exact editor"
        )


def _check_translator(c: Config) -> None:
    from modeling.targets.shapes import TargetError, target_config

    try:
        # a shape is possible or not whatever the text encoder, which is not loaded here
        shape = target_config(c.translator.family, vars(c.translator), text_dim=1)
    except TargetError as error:
        raise ConfigError(f"translator.{error}") from error
    if c.images.size % shape.multiple or c.images.size < shape.least_side:
        raise ConfigError(
            f"images.size={c.images.size}: must be a multiple of {shape.multiple}, at least"
            f" {shape.least_side}, with this translator"
        )


GRAMMAR_ONLY = (
    *("families", "heldout_families", "validation_families", "paired_families", "combine"),
    *("atoms_per_family", "train_atoms", "val_atoms", "val_families"),
    *("test_atoms", "test_families", "paraphrases"),
)
"""Keys of `concepts` that a language model has no use for."""


def _check_concepts(c: Config) -> None:
    _choice("concepts.source", c.concepts.source, ("grammar", "llm"))
    for key in ("similarity", "word_similarity", "paraphrase_similarity"):
        value = getattr(c.llm, key)
        if not -1 <= value <= 1:
            raise ConfigError(f"llm.{key}={value}: is a cosine, from -1 to 1")
    for names in c.llm.combine:
        for name in names:
            _choice("llm.combine", name, [f.name for f in fields(PerCategory)])
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"llm.combine: {names} must be two or more different categories")
    roles = {"writer": c.llm.writer, "paraphraser": c.llm.paraphraser}
    for role, keys in roles.items():
        _choice(f"llm.{role}.provider", keys.provider, ("endpoint", "local"))
        formats = ("json_schema", "json_object", "none")
        _choice(f"llm.{role}.response_format", keys.response_format, formats)
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


def check_baseline(c: Config, method: str) -> None:
    """Raise ConfigError where a from-scratch baseline cannot take images of images.size."""
    _choice("method", method, BASELINES)
    size, k = c.images.size, c.pix2pix
    if method == "pix2pix":
        multiple = 2**k.downs
        if size % multiple or size < 4 * multiple:
            raise ConfigError(
                f"images.size={size}: must be a multiple of {multiple}, {4 * multiple} or more,"
                f" with pix2pix.downs={k.downs}"
            )
        # every layer halves the side, and two more convolutions shorten it by 1 each
        least = 2**k.discriminator_layers * 4
        if size < least:
            raise ConfigError(
                f"images.size={size}: must be at least {least} with"
                f" pix2pix.discriminator_layers={k.discriminator_layers}"
            )
        return
    if size < 16 or size & (size - 1):
        raise ConfigError(f"images.size={size}: {method} takes a power of two, 16 or more")
    if c.comodgan.channel_base < size:
        raise ConfigError(
            f"comodgan.channel_base={c.comodgan.channel_base}: must be at least images.size={size}"
        )


def _check_editing(c: Config, editors: Sequence[str]) -> None:
    """editors: those that are diffusion models."""
    e = c.editing
    _choice("editing.dtype", e.dtype, ("float32", "float16", "bfloat16"))
    for name in e.candidates:
        _choice("editing.candidates", name, editors)
    named: dict[str, Mapping[str, object]] = {
        **{f"editing.{k}": getattr(e, k) for k in ("models", "extras", "steps", "guidance")},
        **{f"editing.{k}": getattr(e, k) for k in ("image_guidance", "strength")},
        "cluster.editor_actors": c.cluster.editor_actors,
        "cluster.editor_gpus": c.cluster.editor_gpus,
    }
    for key, mapping in named.items():
        for name in mapping:
            if name not in editors:
                raise ConfigError(f"{key}.{name}: no such editor; there are {', '.join(editors)}")
    for name, strength in e.strength.items():
        if not 0 < strength <= 1:
            raise ConfigError(f"editing.strength.{name}={strength:g}: is in (0, 1]")
    categories = ("facial", "characteristic", "art", "combined")
    for key, templates in (("prompts", e.prompts), ("instructions", e.instructions)):
        for category, template in templates.items():
            _choice(f"editing.{key}", category, categories)
            if "{text}" not in template:
                raise ConfigError(f"editing.{key}.{category}: must contain {{text}}")
    scored = ("direction", "identity", "quality")
    for name in e.exponents:
        _choice("editing.exponents", name, scored)
    for name in e.least:
        _choice("editing.least", name, ("change", *scored))
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


def _check_generator(c: Config, name: str) -> None:
    """The checks of a section that describes a weight generator: generator or rival."""
    g: Generator = attrgetter(name)(c)
    _choice(f"{name}.kind", g.kind, ("transformer", "unet"))
    _choice(f"{name}.prediction", g.prediction, ("x0", "v", "epsilon"))
    conditionings = ("index", "none", "previous")
    _choice(f"{name}.block_conditioning", g.block_conditioning, conditionings)
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2")
    _choice(f"{name}.schedule", g.schedule, schedules)
    if g.width % g.heads:
        raise ConfigError(f"{name}.heads={g.heads}: must divide {name}.width={g.width}")
    if g.kind == "unet" and (not g.channels or any(n < 1 or n % g.heads for n in g.channels)):
        raise ConfigError(
            f"{name}.channels={g.channels}: one or more numbers, each a multiple of"
            f" {name}.heads={g.heads}"
        )
    if g.kind == "unet" and c.weights.block_size % g.fold:
        raise ConfigError(
            f"{name}.fold={g.fold}: must divide weights.block_size={c.weights.block_size}"
        )
    if g.kind == "transformer" and g.blocks_per_concept:
        raise ConfigError(
            f"{name}.blocks_per_concept: the transformer needs all blocks, set it to 0"
        )
    if not 0 <= g.t_min <= 999:
        raise ConfigError(f"{name}.t_min={g.t_min}: must lie in 0 … 999")
    if name == "rival" and not c.rival.train:
        return
    pools = 1 + bool(c.concepts.paired_combinations) + bool(c.concepts.paired_families)
    if g.image_steps and g.image_concepts < pools:
        raise ConfigError(
            f"{name}.image_concepts={g.image_concepts}: a step needs at least {pools} concepts, one"
            " with an adapter and one each of concepts.paired_*"
        )
    if not g.t_min <= c.adapt.t <= 999:
        raise ConfigError(
            f"adapt.t={c.adapt.t}: must lie in {name}.t_min={g.t_min} … 999,"
            " the time steps the weight generator is trained on"
        )
    if c.adapt.sampler == "ddim" and g.kind == "unet" and g.block_conditioning == "previous":
        raise ConfigError(
            f"{name}.block_conditioning=previous predicts in one step: use adapt.sampler=one_step"
        )
    if c.adapt.sampler == "ddim" and g.t_min > 0:
        raise ConfigError(f"adapt.sampler=ddim visits all time steps: it needs {name}.t_min=0")
