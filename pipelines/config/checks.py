"""What a configuration must not be: values out of range, combinations that cannot work.

Everything here raises ConfigError with one line that names the key and what it may be.
"""

from __future__ import annotations

import re
from operator import attrgetter

from modeling.editors.registry import DIFFUSION, EXACT
from modeling.precision import PRECISIONS
from modeling.targets.shapes import TargetError, target_config
from pipelines.config.data_checks import check_concepts, check_editing
from pipelines.config.derived import fresh_pairs, resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.paths import check_uri
from pipelines.config.ranges import check_ranges, choice
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES, COMPARED, CONTROLS, JOINT, REPTILE
from pipelines.config.sections.training import Generator


def check(config: Config) -> None:
    """Raise ConfigError on an impossible combination."""
    choice("verify", config.verify, ("content", "size"))
    choice("precision", config.precision, PRECISIONS)
    for key in ("run_dir", "text_encoder"):
        if not attrgetter(key)(config):
            raise ConfigError(f"{key}: must not be empty")
    for key in ("run_dir", "images.path"):
        check_uri(key, attrgetter(key)(config))
    _check_images(config)
    check_editing(config, tuple(DIFFUSION))
    check_ranges(config)
    check_concepts(config)
    _check_adapters(config)
    _check_translator(config)
    for name in ("generator", "rival"):
        _check_generator(config, name)
    _check_refinement(config)
    _check_scoring(config)
    _check_service(config)


def _check_service(c: Config) -> None:
    for origin in c.serve.allowed_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s,*]+", origin):
            raise ConfigError(
                f"serve.allowed_origins={origin}: give scheme, host and port alone, such as"
                " https://my.org or http://localhost:3000, or *"
            )


def _check_images(c: Config) -> None:
    choice("images.source", c.images.source, ("avatars", "folder"))
    choice("editor", c.editor, ("auto", "best", *EXACT, *DIFFUSION))
    if c.images.source == "folder" and not c.images.path:
        raise ConfigError("images.source=folder needs images.path=DIR")
    if c.images.source == "avatars" and c.images.path:
        raise ConfigError("images.path is set but images.source=avatars: use images.source=folder")
    if c.images.source == "folder" and resolve_editor(c) == "avatar":
        raise ConfigError(
            "editor=avatar edits avatars only: use editor=filter with images.source=folder"
        )


def _check_adapters(c: Config) -> None:
    """What concerns ranks, collection, blocks and the fine-tune."""
    if not 0 <= c.gans.lr_floor <= 1:
        raise ConfigError(f"gans.lr_floor={c.gans.lr_floor}: is a part of gans.lr, from 0 to 1")
    choice("gans.pilot_score", c.gans.pilot_score, ("l1", "fd"))
    room = max(1, c.gans.steps // 4)
    if c.gans.steps and c.gans.checkpoints > room:
        raise ConfigError(
            f"gans.checkpoints={c.gans.checkpoints}: the last quarter of gans.steps={c.gans.steps}"
            f" has room for {room}"
        )
    choice("ranks.score", c.ranks.score, ("loss", "energy"))
    if len(set(c.ranks.choices)) < 2 or min(c.ranks.choices) < 1:
        raise ConfigError(f"ranks.choices={c.ranks.choices}: two or more ranks, each at least 1")
    choice("weights.grouping", c.weights.grouping, (1, 2, 3))
    choice("weights.centre", c.weights.centre, ("element", "tensor"))
    choice("adapt.split", c.adapt.split, ("test", "val"))
    choice("adapt.sampler", c.adapt.sampler, ("one_step", "ddim"))
    if any(not 0 < k < max(c.adapt.steps, 1) for k in c.adapt.keep):
        raise ConfigError(
            f"adapt.keep={c.adapt.keep}: must lie between 0 and adapt.steps={c.adapt.steps}"
        )


def _check_scoring(c: Config) -> None:
    """What concerns evaluation, comparison and baselines."""
    choice("evaluate.features", c.evaluate.features, ("efficientnet", "inception", "clip"))
    for method in c.evaluate.controls:
        choice("evaluate.controls", method, CONTROLS)
    for key, methods in (
        ("evaluate.controls", c.evaluate.controls),
        ("compare.methods", c.compare.methods),
    ):
        for name, steps in ((JOINT, "joint_steps"), (REPTILE, "reptile_steps")):
            if name in methods and not attrgetter(steps)(c.starts):
                raise ConfigError(f"{key}: {name} is trained by starts.{steps}, which is 0")
    if c.evaluate.fd_images and c.evaluate.fd_images < 2048:
        raise ConfigError(
            "evaluate.fd_images: a Fréchet distance needs at least 2048 images, or 0 for none"
        )
    if c.evaluate.fd_images and not fresh_pairs(c):
        raise ConfigError(
            "evaluate.fd_images: fresh pairs exist for images.source=avatars with an exact editor"
        )
    for method in c.compare.methods:
        choice("compare.methods", method, COMPARED)
    if len(set(c.compare.methods)) < len(c.compare.methods):
        raise ConfigError(f"compare.methods={c.compare.methods}: a method is given twice")
    if any(e < 1 for e in c.compare.score_at):
        raise ConfigError(f"compare.score_at={c.compare.score_at}: epochs start at 1")
    choice("pix2pix.norm", c.pix2pix.norm, ("batch", "instance"))
    for section in ("pix2pix", "comodgan"):
        constant = attrgetter(section)(c).constant
        if constant > 1:
            raise ConfigError(f"{section}.constant={constant}: is a part, at most 1")


def _check_translator(c: Config) -> None:
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


def _check_refinement(c: Config) -> None:
    """The learned steps and the basis, and what the fine-tune takes of them."""
    r, a = c.refine, c.adapt
    for key in ("from_zero", "from_other", "from_noise", "invented", "no_text", "same_pairs"):
        if not 0 <= attrgetter(key)(r) <= 1:
            raise ConfigError(f"refine.{key}={attrgetter(key)(r)}: is a part, from 0 to 1")
    if r.from_zero + r.from_other + r.from_noise > 1:
        raise ConfigError(
            f"refine.from_zero={r.from_zero}, from_other={r.from_other} and"
            f" from_noise={r.from_noise}: together more than all"
        )
    if r.width % r.heads:
        raise ConfigError(f"refine.heads={r.heads}: must divide refine.width={r.width}")
    if r.steps and r.pairs <= r.scored:
        raise ConfigError(f"refine.pairs={r.pairs}: must be more than refine.scored={r.scored}")
    pools = 1 + bool(c.concepts.paired_combinations) + bool(c.concepts.paired_families)
    for section, used in (
        ("refine", r.steps),
        ("starts", c.starts.joint_steps or c.starts.reptile_steps),
    ):
        concepts = attrgetter(section)(c).concepts
        if used and concepts < pools:
            raise ConfigError(
                f"{section}.concepts={concepts}: a step needs at least {pools} concepts, one with"
                " an adapter and one each of concepts.paired_*"
            )
    if r.steps and not r.basis_concepts:
        raise ConfigError(
            f"refine.steps={r.steps}: a refiner works in the basis, give refine.basis_concepts"
        )
    if a.learned_steps and not r.steps:
        raise ConfigError(
            f"adapt.learned_steps={a.learned_steps}: needs a refiner, give refine.steps"
        )
    if a.learned_steps > a.steps:
        raise ConfigError(f"adapt.learned_steps={a.learned_steps}: are among adapt.steps={a.steps}")
    if a.basis and not r.basis_concepts:
        raise ConfigError("adapt.basis=true: needs a basis, give refine.basis_concepts")


def check_baseline(c: Config, method: str) -> None:
    """Raise ConfigError where a from-scratch baseline cannot take images of images.size."""
    choice("method", method, BASELINES)
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


def _check_generator(c: Config, name: str) -> None:
    """The checks of a section that describes a weight generator: generator or rival."""
    g: Generator = attrgetter(name)(c)
    choice(f"{name}.kind", g.kind, ("transformer", "unet"))
    choice(f"{name}.prediction", g.prediction, ("x0", "v", "epsilon"))
    conditionings = ("index", "none", "previous")
    choice(f"{name}.block_conditioning", g.block_conditioning, conditionings)
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2")
    choice(f"{name}.schedule", g.schedule, schedules)
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
