"""Trains and scores the methods of Table 1, one concept and seed after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from modeling.baselines.scratch_training import ScratchTraining
from modeling.concepts.concept import Concept
from modeling.cost import TranslatorCost, refiner_pass
from modeling.targets.adapter_training import ConceptData, translate_all
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import Adapter, stack
from modeling.targets.recipe import Recipe, as_published, finetune_recipe
from pipelines.comparison.budgets import e2gan, finetune, steps_of
from pipelines.comparison.fairness import check_unseen
from pipelines.comparison.from_scratch import make_baseline
from pipelines.comparison.jobs import ADAPTING, scored_epochs
from pipelines.comparison.methods import AS_LONG, E2GAN, E2GAN_BY_OURS
from pipelines.comparison.rows import FOLDER, PICTURES, ROWS
from pipelines.comparison.scoring import Scorer
from pipelines.config.sections.finetune import Adapt
from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import cut
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import (
    IDENTITY,
    PREDICTION,
    PUBLISHED,
    Contenders,
    by_learned_steps,
    regimes,
)
from pipelines.stages.judging import Judged, digests
from pipelines.stages.refiners import refiner_config


@dataclass(frozen=True)
class Group:
    """Methods that are trained together: their adapters before the first step, and their budget."""

    starts: dict[str, Adapter]
    adapt: Adapt
    """Steps, and the switches of the fine-tune."""
    recipe: Recipe
    epochs: int
    regime: str = ""


class CompareMethods(Contenders):
    """Ray Data actor: trains and scores one job after another, and writes its rows."""

    controls = FOLDER

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.concepts = {c.concept_id: c for c in load_concepts(run_dir)}
        self.scorer = Scorer(self.config, run_dir, self.device)
        c = self.config
        text_dim = self.texts.dim
        self.cost = TranslatorCost(
            translator_config(c, text_dim),
            discriminator_config(c),
            c.images.size,
            c.lora.rank,
            c.lora.ranks,
        )

    @cached_property
    def refiner_flops(self) -> float:
        text_dim = self.texts.dim
        return refiner_pass(refiner_config(self.config, self.decoder.layout, text_dim))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"job": [], "error": []}
        for job in batch["job"]:
            kind, concept_id, repeat = str(job).split("/")
            concept, number = self.concepts[concept_id], int(repeat)
            errors: list[str] = []
            if kind == ADAPTING:
                self.adapting(str(job), concept, number, errors)
            else:
                self.from_scratch(str(job), concept, kind, number, errors)
            out["job"].append(str(job))
            out["error"].append("; ".join(errors))
        return out

    def training(self, concept: Concept, coreset: int = 0) -> ConceptData:
        """Training pairs, or a coreset of them; UnfairError if one of them is judged on."""
        data = self.data(concept.concept_id)
        judged = self.scorer.judged(concept)
        check_unseen(digests(judged.source), digests(data.source), concept.text)
        if coreset:
            data = cut(data, image_coreset(data.source, coreset, self.config.seed))
        return data

    def write(self, job: str, rows: list[Any], pictures: list[Any]) -> None:
        self.run_dir.write_table(
            f"{FOLDER}/jobs/{job}.pictures.parquet", pa.Table.from_pylist(pictures, PICTURES)
        )
        self.run_dir.write_table(f"{FOLDER}/jobs/{job}.parquet", pa.Table.from_pylist(rows, ROWS))

    # methods that adapt the base

    def adapting(self, job: str, concept: Concept, repeat: int, errors: list[str]) -> None:
        """All of them, those of one budget in one fused batch; identity is scored, too."""
        data = self.training(concept, self.config.compare.coreset)
        judged = self.scorer.judged(concept)
        rows = [self.scorer.row(concept, IDENTITY, repeat, judged.source)]
        pictures = [
            *self.scorer.show(concept, SOURCE, judged.source),
            *self.scorer.show(concept, TRUTH, judged.edited),
        ]
        for group in self.groups(concept, repeat, len(data.source)):
            if group.starts:
                more, shown = self.adapt(group, concept, data, repeat, errors)
                rows += more
                pictures += shown
        self.write(job, rows, pictures if not repeat else [])

    def groups(self, concept: Concept, repeat: int, images: int) -> list[Group]:
        """The methods with the budget of our fine-tune, in each regime, and those with E²GAN's."""
        c = self.config
        starts = self.starts(concept.concept_id, repeat, c.compare.methods)
        out = []
        for regime, adapt in regimes(c).items():
            short = finetune(adapt, c.compare.epochs, images)
            refined, plain = by_learned_steps(starts, adapt.learned_steps)
            for group, mine in ((refined, short), (plain, replace(short, learned_steps=0))):
                out.append(Group(group, mine, finetune_recipe(mine), c.compare.epochs, regime))
        long: dict[str, Adapter] = {}
        zero = self.translator.zero_adapter()
        if E2GAN in c.compare.methods:
            long[E2GAN] = zero
        if AS_LONG in c.compare.methods and PREDICTION in starts:
            long[AS_LONG] = starts[PREDICTION]
        recipe, epochs = e2gan(c, images), c.compare.e2gan_epochs
        published = replace(as_published(c.adapt), steps=recipe.steps)
        out.append(Group(long, published, recipe, epochs))
        if E2GAN in long and c.adapt.basis:
            ours = replace(finetune(c.adapt, epochs, images), learned_steps=0)
            out.append(Group({E2GAN_BY_OURS: zero}, ours, finetune_recipe(ours), epochs))
        return out

    def adapt(
        self, group: Group, concept: Concept, data: ConceptData, repeat: int, errors: list[str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Train and score; returns rows and, of the first seed, pictures at both ends."""
        recipe, epochs, seed = group.recipe, group.epochs, self.config.seed + repeat
        judged, images = self.scorer.judged(concept), len(data.source)
        scored = scored_epochs(self.config, self.run_dir, concept.concept_id, repeat, epochs, True)
        at = {epoch: steps_of(epoch, images, recipe.batch) for epoch in scored}
        count = len(group.starts)
        trained = self.finetune(
            [data] * count,
            list(group.starts.values()),
            [self.texts[concept.concept_id]] * count,
            group.adapt,
            seed,
            repeat=repeat,
            keep=list(at.values()),
            recipe=recipe,
        )
        gan = recipe.gan_weight > 0
        step_flops = self.cost.adapter_step(recipe.batch, gan=gan) * recipe.batch
        learned, learned_flops = group.adapt.learned_steps, 0.0
        if learned:  # a gradient on some pairs, and the refiner's pass
            pairs = min(group.adapt.learned_pairs, images)
            learned_flops = self.cost.adapter_step(pairs, gan=gan) * pairs + self.refiner_flops
        rows, pictures = [], []
        for (method, start), result in zip(group.starts.items(), trained, strict=True):
            if result.adapter is None:
                errors.append(f"{method}, seed {seed}: {result.error}")
                continue
            track = {**result.checkpoints, 0: start, recipe.steps: result.adapter}
            made = self.draw(data, [track[s] for s in at.values()], judged)
            for (epoch, step), drawn in zip(at.items(), made, strict=True):
                about = {
                    "finetune": group.regime,
                    "learned": (taken := min(step, learned)),
                    "epoch": epoch,
                    "epochs": epochs,
                    "step": step,
                    "images": images,
                    "trainable": sum(v.numel() for v in start.values()),
                    "total": self.cost.weights,
                    "training_flops": step_flops * (step - taken) + learned_flops * taken,
                    "image_flops": self.cost.forward(),
                }
                rows.append(self.scorer.row(concept, method, repeat, drawn, about))
                if not repeat and epoch in (0, epochs) and group.regime != PUBLISHED:
                    l1 = rows[-1]["l1"]
                    pictures += self.scorer.show(concept, method, drawn, epoch, l1)
        return rows, pictures

    def draw(self, data: ConceptData, adapters: list[Adapter], judged: Judged) -> torch.Tensor:
        """uint8 [adapters, n, 3, H, W]."""
        source = judged.source.to(self.device)
        tokens = [data.tokens]
        parts = [translate_all(self.translator, stack([a]), source, tokens) for a in adapters]
        return torch.cat(parts).cpu()

    # methods that train a whole network

    def scratch(self, concept: Concept, method: str, repeat: int) -> ScratchTraining:
        data = self.training(concept)
        return make_baseline(
            self.config,
            method,
            data.source,
            data.edited,
            self.config.seed + repeat,
            self.device,
        )

    def from_scratch(
        self, job: str, concept: Concept, method: str, repeat: int, errors: list[str]
    ) -> None:
        """Goes on from the last scored epoch where an earlier attempt was stopped."""
        training = self.scratch(concept, method, repeat)
        judged = self.scorer.judged(concept)
        epochs = training.recipe.epochs
        step_flops, image_flops = training.step_flops, training.image_flops
        state, partial = f"{FOLDER}/jobs/{job}.state", f"{FOLDER}/jobs/{job}.partial.parquet"
        rows: list[dict[str, Any]] = []
        if self.run_dir.exists(state) and self.run_dir.exists(partial):
            training.load_state(self.run_dir.read(state))
            rows = self.run_dir.read_table(partial).to_pylist()
            rows = [r for r in rows if r["epoch"] <= training.epoch]
        made = None
        concept_id = concept.concept_id
        for epoch in scored_epochs(self.config, self.run_dir, concept_id, repeat, epochs, False):
            if any(r["epoch"] == epoch for r in rows) and epoch < epochs:
                continue
            rows = [r for r in rows if r["epoch"] != epoch]
            try:
                training.train(epoch)
            except FloatingPointError as error:
                errors.append(f"{method}, seed {self.config.seed + repeat}: {error}")
                return
            made = training.translate(judged.source.to(self.device)).cpu()
            steps = steps_of(epoch, len(training.source), training.recipe.batch)
            about = {
                "epoch": epoch,
                "epochs": epochs,
                "step": steps,
                "images": len(training.source),
                "trainable": training.trainable,
                "total": training.total,
                "training_flops": step_flops * steps,
                "image_flops": image_flops,
            }
            rows.append(self.scorer.row(concept, method, repeat, made, about))
            self.run_dir.write_table(partial, pa.Table.from_pylist(rows, ROWS))
            self.run_dir.write(state, training.state())
        assert made is not None  # the last epoch is always scored
        l1 = rows[-1]["l1"]
        self.write(
            job, rows, self.scorer.show(concept, method, made, epochs, l1) if not repeat else []
        )
        for path in (state, partial):
            self.run_dir.delete(path)
