"""`denoised-weights plan command=compare`: what that stage takes, counted by its own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipelines.comparison.budgets import e2gan, steps_of
from pipelines.comparison.from_scratch import make_baseline
from pipelines.comparison.methods import AS_LONG, E2GAN, scratch_methods
from pipelines.config.derived import exact_editor, resolve_editor
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.plan.command import grounds, summed, tell
from pipelines.plan.counts import ConceptCounts, concept_counts, image_splits
from pipelines.plan.estimate import row_of
from pipelines.plan.rates import Rates, of_network
from pipelines.plan.shapes import Shapes, png_bytes
from pipelines.plan.work import StageWork, Work, actors_of
from pipelines.stages.contenders import by_learned_steps, regimes


def plan(config: Config, own: Mapping[str, str], words: Sequence[str]) -> int:
    """As pipelines/plan/command.py's, of a finished run's `compare`."""
    on = grounds(config, own)
    work = compare_work(config, on.shapes, concept_counts(config))
    row = row_of(config, work, with_baselines(config, on.rates))
    return tell(on, summed(config, [row], "command"), own, ["command=compare", *words])


def compare_work(config: Config, shapes: Shapes, counts: ConceptCounts) -> StageWork:
    """Methods that adapt the base on every compared concept, whole networks on some of them.

    The seconds that `compare` reports are measured by one actor at the end; those are not counted.
    """
    c, repeats = config.compare, config.repeats
    heldout = counts.of(config.adapt.split)
    concepts = min(c.concepts or heldout, heldout)
    whole, methods = min(c.scratch_concepts, concepts), scratch_methods(config)
    train = image_splits(config.images.count)["train"]
    images = min(c.coreset or train, train)
    starts = [m for m in c.methods if m not in (*BASELINES, E2GAN, AS_LONG)]
    # points of a curve: the first seed's, where whole networks are trained, too
    drawn_short, drawn_long = (len([e for e in c.score_at if 0 < e < n]) for n in _epochs(config))
    short = long = curves = 0.0
    for adapt in regimes(config).values():
        trained = sum(map(len, by_learned_steps({m: {} for m in starts}, adapt.learned_steps)))
        short += trained * steps_of(c.epochs, images, adapt.batch) * adapt.batch
        curves += trained * (2 * concepts * repeats + drawn_short * whole)
    lengthy = [m for m in (E2GAN, AS_LONG) if m in c.methods]
    recipe = e2gan(config, images)
    long += len(lengthy) * recipe.steps * recipe.batch
    if E2GAN in lengthy and config.adapt.basis:
        batch = config.adapt.batch
        short += steps_of(c.e2gan_epochs, images, batch) * batch
        lengthy.append("E²GAN in the basis")
    curves += len(lengthy) * (2 * concepts * repeats + drawn_long * whole)
    work = [
        Work("images trained on, short", concepts * repeats * short, "finetune"),
        Work("images trained on, as E²GAN", concepts * repeats * long, "collect"),
    ]
    for method in methods:
        keys = config.pix2pix if method == "pix2pix" else config.comodgan
        seen = whole * c.scratch_repeats * keys.epochs * train
        jobs = whole * c.scratch_repeats
        work.append(Work(f"images trained on by {method}", seen, method, jobs))
        points = 1 + len([e for e in c.score_at if 0 < e < keys.epochs])
        curves += whole * (c.scratch_repeats - 1 + points)
    fresh = config.images.source == "avatars" and exact_editor(config)
    judged = c.images if fresh else image_splits(config.images.count)["test"]
    pictures = curves * judged
    work += [
        Work("images drawn", pictures, "draw"),
        # with the true edits; equal pictures are embedded once, which is not counted
        Work("images embedded", pictures + concepts * judged, "features"),
    ]
    if fresh:
        editor = f"edit {resolve_editor(config)}"
        work.append(Work("true edits", concepts * judged, editor))
    count = len(starts) + len(methods) + len(lengthy)
    return StageWork(
        "compare",
        f"{concepts:,} concepts × {count} methods × {repeats} seed{'s' * (repeats > 1)},"
        f" {judged:,} images" + (f"; whole networks on {whole:,}" if methods else ""),
        tuple(w for w in work if w.count),
        2 * count * concepts * config.report.pictures * png_bytes(config),
        actors_of(config).at_most(concepts * repeats + whole * len(methods) * c.scratch_repeats),
        notes=("without the timing of every method by one actor at the end",),
    )


def _epochs(config: Config) -> tuple[int, int]:
    return config.compare.epochs, config.compare.e2gan_epochs


def with_baselines(config: Config, rates: Rates) -> Rates:
    """The rates with those of networks that are trained from scratch, by image."""
    table, pool = dict(rates.table), actors_of(config)
    shape = (1, 3, config.images.size, config.images.size)
    empty = torch.empty(shape, dtype=torch.uint8, device="meta")
    for method in scratch_methods(config):
        training = make_baseline(config, method, empty, empty, 0, "meta")
        flops = training.step_flops / training.recipe.batch
        table[method] = of_network(config, flops, pool, config.plan.training_utilisation)
    return Rates(table, rates.weights)
