"""How fast one device does each kind of work: assumed, each with its source.

pipelines/plan/calibration.py replaces rates by what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from modeling.cost import GeneratorCost
from modeling.editors.diffusion.costs import EvaluationCost, evaluation_cost
from modeling.editors.diffusion.recipes import recipes
from modeling.editors.registry import EXACT
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.plan.bookkeeping import at_once
from pipelines.plan.counts import candidate_editors
from pipelines.plan.shapes import Shapes
from pipelines.plan.work import Pool, actors_of, workers_of
from pipelines.stages.weight_generators import generator_config, members

EVALUATIONS: Mapping[str, tuple[float, int, str]] = {
    "img2img": (2, 50, "2 for guidance"),
    "instruct_pix2pix": (3, 100, "3 for two guidances"),
    "instruct_diffusion": (3, 100, "3 for two guidances"),
    "controlnet": (2, 50, "2 for guidance, each with the ControlNet"),
    "null_text": (
        37,
        50,
        "1 of inversion, 2 + 10 of optimisation at most, 10 backward (2 evaluations each), 4 of"
        " editing",
    ),
    "pix2pix_zero": (10, 50, "6 forward, 2 backward (2 evaluations each)"),
}
"""Evaluations of Stable Diffusion's UNet for a step of an edit, the steps, and what they are for,
by each method's published defaults."""
NULL_TEXT_EDIT = 4
"""Of null_text's evaluations a step, those of an edit whose inversion is known."""
STRENGTH = {"img2img": 0.6, "controlnet": 0.8}
"""The part of the steps that is taken, where editing.strength gives no other."""
FEATURE_FLOPS = {"efficientnet": (0.81e9, 224), "inception": (11.4e9, 299), "clip": (162e9, 224)}
"""For one image, and the side it is for: twice the 0.407 and 5.7 billion multiply-adds that the
authors of EfficientNet-Lite and torchvision (Inception v3) give."""


@dataclass(frozen=True)
class Rate:
    """Items a second on one device, what an item costs, and where the figure comes from."""

    per_second: float
    source: str
    flops: float = 0.0
    """Of one item; 0 = it is not counted in FLOPs."""
    measured: bool = False


@dataclass
class Rates:
    """By name; the names are those of `Work.rate`."""

    table: dict[str, Rate] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    """Of each section's weight generator."""


def assumed(config: Config, shapes: Shapes) -> Rates:
    """Every rate that the plan of this configuration can ask for."""
    p, cost = config.plan, shapes.cost
    out = Rates()

    def network(name: str, flops: float, pool: Pool, utilisation: float) -> None:
        out.table[name] = of_network(config, flops, pool, utilisation)

    g, a, e, actor = config.gans, config.adapt, config.evaluate, actors_of(config)
    training = p.training_utilisation
    collect = cost.adapter_step(g.batch, gan=g.gan_weight > 0)
    network("collect", collect, actor, training)
    finetune = cost.adapter_step(a.batch, gan=a.gan_weight > 0)
    network("finetune", finetune, actor, p.finetune_utilisation)
    b = config.base
    worker = workers_of(config, b.workers)
    network("base", cost.base_step(b.batch, gan=b.gan_weight > 0), worker, training)
    network("scratch", cost.base_step(a.batch, gan=a.gan_weight > 0), actor, training)
    network("draw", cost.forward(64), actor, training)
    full, side = FEATURE_FLOPS[e.features]
    size = e.features_size if e.features == "efficientnet" else side
    # the extractor stays on the cores of the actor
    network("features", full * (size / side) ** 2, replace(actor, gpus=0.0), training)
    # a source picture's are kept; of other models than CLIP ViT-L/14 it is the order of magnitude
    if config.editing.clip:
        judges = 1 + bool(config.editing.identity)
        network("score", judges * FEATURE_FLOPS["clip"][0], actor, training)
    n = shapes.layout.n_blocks
    for member in members(config):
        if member.repeat:
            continue
        own = member.of(config)
        section, s = member.section, own.generator
        model = GeneratorCost(generator_config(own, n, shapes.text_dim))
        out.weights[section] = model.weights
        blocks = s.blocks_per_concept or n
        worker = workers_of(config, s.workers)
        network(f"{section} step", blocks * model.step(blocks), worker, training)
        if s.image_steps:
            gan = s.image_gan > 0
            flops = n * model.step(n) * (1 + (s.image_denoising > 0))
            flops += s.image_batch * cost.adapter_step(s.image_batch, gan=gan)
            network(f"{section} images", flops, worker, training)
        calls = a.ddim_steps if a.sampler == "ddim" else 1
        network(f"{section} predict", calls * n * model.forward(n), actor, training)
    for editor in {*candidate_editors(config), *EXACT}:
        out.table[f"edit {editor}"] = edit_rate(config, editor, actor)
    out.table["texts"] = Rate(p.texts_per_s, "assumed: plan.texts_per_s")
    out.table["load"] = Rate(p.texts_loaded_per_s, "assumed: plan.texts_loaded_per_s")
    out.table["read"] = Rate(at_once(config), "assumed: plan.files_per_s, plan.requests_per_s")
    out.table["write"] = Rate(p.write_mb_per_s, "assumed: plan.write_mb_per_s")
    return out


def of_network(config: Config, flops: float, device: Pool, utilisation: float) -> Rate:
    p = config.plan
    if not device.gpus:
        return Rate(
            device.cores * p.core_gflops * 1e9 / flops,
            f"assumed: {device.cores} core{'s' * (device.cores > 1)} of {p.core_gflops:g} GFLOP/s",
            flops,
        )
    return Rate(
        device.gpus * p.gpu_tflops * 1e12 * utilisation / flops,
        f"assumed: {p.gpu_tflops:g} TFLOP/s a GPU × {utilisation:g}",
        flops,
    )


def edit_rate(config: Config, editor: str, actor: Pool) -> Rate:
    """Edits a second; ConfigError for an editor whose evaluations are not known."""
    p = config.plan
    if editor in EXACT:
        return Rate(p.exact_edits_per_s * actor.cores, "assumed: plan.exact_edits_per_s, at 32×32")
    count, how = _evaluations(config, editor)
    size = -(-(config.editing.size or config.images.size) // 64) * 64  # a UNet halves three times
    parts = _cost(editor, size)
    each = parts.denoiser + (parts.controlnet if editor == "controlnet" else 0.0)
    flops = count * each + parts.encode + parts.decode
    if not actor.gpus:
        per_second = actor.cores * p.core_gflops * 1e9 / flops
        speed = f"{actor.cores} × {p.core_gflops:g} GFLOP/s"
    else:
        per_second = actor.gpus * p.editor_tflops * 1e12 * p.editor_utilisation / flops
        speed = f"{p.editor_tflops:g} TFLOP/s a GPU × {p.editor_utilisation:g}"
    return Rate(
        per_second,
        f"assumed: {count:,.0f} evaluations ({how}) of {each / 1e12:.2f} TFLOP at {size}×{size},"
        f" {speed}",
        flops,
    )


def _evaluations(config: Config, editor: str) -> tuple[float, str]:
    """Of the denoiser for an edit, and why."""
    e, recipe = config.editing, recipes().get(editor)
    if editor in config.plan.evaluations:
        return config.plan.evaluations[editor], "plan.evaluations"
    if recipe is not None:
        own = recipe.options
        steps = e.steps.get(editor, own["steps"])
        strength = own.get("strength", 1.0)
        taken = int(steps * e.strength.get(editor, strength)), int(own["steps"] * strength)
        # guidance that the recipe has off is one more pass
        twice = own["guidance"] <= 1 < e.guidance.get(editor, own["guidance"])
        count = recipe.evaluations * taken[0] / taken[1] * (1 + twice)
        return max(1.0, count), f"{steps} steps, by its recipe" + ", guided" * twice
    each, steps, how = EVALUATIONS.get(editor, (0.0, 0, ""))
    steps = e.steps.get(editor, steps)
    part = e.strength.get(editor, STRENGTH.get(editor, 1.0)) if editor in STRENGTH else 1.0
    count, how = each * steps * part, f"{steps} steps × {part:g} × {how}"
    if editor == "null_text" and e.inversions:
        shared = min(1.0, e.inversions / config.images.count)
        count = (shared * NULL_TEXT_EDIT + (1 - shared) * each) * steps
        how = f"{steps} steps × 4 of editing; {shared:.0%} of the images are inverted once"
    if count <= 0:
        raise ConfigError(
            f"how much an edit by {editor!r} costs is not known: give"
            f" plan.evaluations={{{editor}: N}}, its denoiser evaluations"
        )
    return count, how


def _cost(editor: str, size: int) -> EvaluationCost:
    recipe = recipes().get(editor)
    return evaluation_cost(recipe.architecture if recipe else "sd15", size)


def to_json(rates: Rates) -> dict[str, dict[str, object]]:
    return {name: asdict(rate) for name, rate in sorted(rates.table.items())}
