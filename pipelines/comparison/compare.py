"""Stage `compare`: every method of the paper's Table 1 on held-out concepts, each at its budget.

Quality first, by a pool of actors, one job per concept and seed for all methods that adapt the base
and one for each that trains from scratch. Then one actor alone times each method, on an otherwise
idle machine; these are the seconds that are reported. Scoring, loading and drawing are in none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from modeling.baselines.scratch_training import ScratchTraining
from modeling.concepts.planning import Concept
from modeling.cost import TranslatorCost
from modeling.images import encode_png
from modeling.metrics.distances import MIN_FRECHET_COUNT, frechet_distance_from_features, kid
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters, translate_all
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import Adapter, stack
from modeling.targets.recipe import Recipe, collection_recipe, finetune_recipe
from pipelines.comparison import numbers as comparison_numbers
from pipelines.comparison import page as report_comparison
from pipelines.comparison.fairness import check_alike, check_unseen
from pipelines.comparison.from_scratch import make_baseline
from pipelines.comparison.numbers import AS_LONG
from pipelines.config import tree as config_tree
from pipelines.config.checks import check_baseline
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress, log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import StageError, record_errors
from pipelines.stages.adapt import cut, heldout
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import IDENTITY, PREDICTION, SHUFFLED, Contenders
from pipelines.stages.judging import FAR, Judge, Judged, digests

FOLDER = "comparison"
E2GAN = "E²GAN"
ADAPTING = "adapting"
"""Kind of the jobs that run all methods which adapt the base."""
ROWS = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("epoch", pa.int32()),
        ("epochs", pa.int32()),  # the method's budget
        ("step", pa.int32()),
        ("images", pa.int32()),  # trained on
        ("l1", pa.float64()),  # mean |difference|, images in [-1, 1]
        ("kid", pa.float64()),
        ("fd", pa.float64()),  # where n allows it
        ("n", pa.int32()),  # images scored
        ("judged", pa.string()),
        ("size", pa.int32()),
        ("features", pa.string()),
        ("distance", pa.string()),  # what fd is called
        ("device", pa.string()),
        ("trainable", pa.int64()),
        ("total", pa.int64()),
        ("training_flops", pa.float64()),  # up to this epoch
        ("image_flops", pa.float64()),  # of one picture
        ("seconds", pa.float64()),  # of training up to this epoch, from the serial pass
    ]
)
PICTURES = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("method", pa.string()),
        ("epoch", pa.int32()),
        ("l1", pa.float64()),  # over all of the concept's unseen images
        ("image_id", pa.string()),
        ("image", pa.binary()),
    ]
)


def chosen(config: Config, run_dir: RunDir) -> tuple[list[str], list[str]]:
    """concept_ids compared, and those of them on which methods are trained from scratch, too.

    Drawn by the seed before anything is trained, evenly from the held-out sets.
    """
    ids = set(heldout(run_dir, config.adapt.split))
    by_set: dict[str, list[str]] = {}
    for concept in load_concepts(run_dir):
        if concept.concept_id in ids:
            by_set.setdefault(concept.heldout, []).append(concept.concept_id)
    draw = random.Random(f"compare {config.seed}")
    for members in by_set.values():
        members.sort()
        draw.shuffle(members)
    longest = max(map(len, by_set.values()), default=0)
    order = [m[i] for i in range(longest) for m in by_set.values() if i < len(m)]
    c = config.compare
    order = order[: c.concepts or None]
    return order, order[: c.scratch_concepts]


def steps_of(epochs: int, images: int, batch: int) -> int:
    return math.ceil(epochs * images / batch)


def finetune(config: Config, epochs: int, images: int) -> Recipe:
    """The fine-tune of stage `adapt`, of so many epochs."""
    a = finetune_recipe(config.adapt)
    return Recipe(**{**vars(a), "steps": steps_of(epochs, images, a.batch)})


def e2gan(config: Config, images: int) -> Recipe:
    """The collection's recipe, for compare.e2gan_epochs."""
    return collection_recipe(
        config.gans, steps_of(config.compare.e2gan_epochs, images, config.gans.batch)
    )


class CompareMethods(Contenders):
    """Ray Data actor: trains and scores one job after another, and writes its rows."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.concepts = {c.concept_id: c for c in load_concepts(run_dir)}
        self.judge = Judge(self.config, run_dir)
        self._truth: dict[str, tuple[Judged, Any]] = {}
        c = self.config
        text_dim = next(iter(self.texts.values())).pooled.shape[0]
        self.cost = TranslatorCost(
            translator_config(c, text_dim),
            discriminator_config(c),
            c.images.size,
            c.lora.rank,
            c.lora.ranks,
        )

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

    # what is judged

    def truth(self, concept: Concept) -> tuple[Judged, Any]:
        """Unseen images of a concept and the features of their true edits."""
        if concept.concept_id not in self._truth:
            judged = self.judge.judged(concept, FAR, self.config.compare.images)
            self._truth = {concept.concept_id: (judged, self.judge.embed(judged.edited))}
        return self._truth[concept.concept_id]

    def training(self, concept: Concept, coreset: int = 0) -> ConceptData:
        """Training pairs, or a coreset of them; UnfairError if one of them is judged on."""
        data = self.data(concept.concept_id)
        judged, _ = self.truth(concept)
        check_unseen(digests(judged.source), digests(data.source), concept.text)
        if coreset:
            data = cut(data, image_coreset(data.source, coreset, self.config.seed))
        return data

    def row(
        self,
        concept: Concept,
        method: str,
        repeat: int,
        made: torch.Tensor,
        about: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The scores of pictures uint8 [n, 3, H, W]; about: columns that are not 0."""
        judged, _ = self.truth(concept)
        n = len(made)
        if len(judged.edited) != n:
            raise StageError(f"compare: {n} pictures of {method}, {len(judged.edited)} true edits")
        return {
            "method": method,
            "concept_id": concept.concept_id,
            "text": concept.text,
            "heldout": concept.heldout,
            "seed": self.config.seed + repeat,
            **self.scores(concept, made),
            "n": n,
            "judged": judged.digest,
            "size": made.shape[-1],
            "features": self.judge.features.description,
            "distance": self.judge.features.name,
            "device": self.device.type,
            "epoch": 0,
            "epochs": 0,
            "step": 0,
            "images": 0,
            "trainable": 0,
            "total": 0,
            "training_flops": 0.0,
            "image_flops": 0.0,
            **(about or {}),
        }

    def scores(self, concept: Concept, made: torch.Tensor) -> dict[str, float | None]:
        """L1, KID and Fréchet distance; those of the same pictures are computed once.

        Starts that no seed changes give the same pictures again and again, and features are what
        takes the time.
        """
        judged, true = self.truth(concept)
        both = hashlib.sha1("".join([judged.digest, *digests(made)]).encode()).hexdigest()
        path = f"{FOLDER}/scores/{both}.json"
        if self.run_dir.exists(path):
            return dict(self.run_dir.read_json(path))
        features, n = self.judge.embed(made), len(made)
        found = {
            "l1": float((to_unit(made) - to_unit(judged.edited)).abs().mean()),
            "kid": kid(features, true, 1, n),
            "fd": (
                frechet_distance_from_features(features, true) if n >= MIN_FRECHET_COUNT else None
            ),
        }
        self.run_dir.write_json(path, found)
        return found

    def show(
        self,
        concept: Concept,
        method: str,
        made: torch.Tensor,
        epoch: int = 0,
        l1: float | None = None,
    ) -> list[dict[str, Any]]:
        """The first pictures, as many as report.pictures says."""
        judged, _ = self.truth(concept)
        shown = list(zip(judged.ids, made, strict=True))[: self.config.report.pictures]
        return [
            {
                "concept_id": concept.concept_id,
                "text": concept.text,
                "method": method,
                "epoch": epoch,
                "l1": l1,
                "image_id": image_id,
                "image": encode_png(image.permute(1, 2, 0).contiguous().numpy()),
            }
            for image_id, image in shown
        ]

    def write(self, job: str, rows: list[Any], pictures: list[Any]) -> None:
        self.run_dir.write_table(
            f"{FOLDER}/jobs/{job}.pictures.parquet", pa.Table.from_pylist(pictures, PICTURES)
        )
        self.run_dir.write_table(f"{FOLDER}/jobs/{job}.parquet", pa.Table.from_pylist(rows, ROWS))

    def scored_epochs(self, concept_id: str, repeat: int, epochs: int, start: bool) -> list[int]:
        """All of compare.score_at for the first seed where a curve is drawn, else the end points.

        start: whether there is something to score before the first epoch.
        """
        c = self.config
        ends = {0, epochs} if start else {epochs}
        if not repeat and concept_id in chosen(c, self.run_dir)[1]:
            ends |= {e for e in c.compare.score_at if 0 < e < epochs}
        return sorted(ends)

    # methods that adapt the base

    def adapting(self, job: str, concept: Concept, repeat: int, errors: list[str]) -> None:
        c = self.config
        data = self.training(concept, c.compare.coreset)
        judged, _ = self.truth(concept)
        wanted = c.compare.methods
        starts = self.starts(concept.concept_id, repeat, c.compare.methods)
        count = len(data.source)
        groups = [(starts, finetune(c, c.compare.epochs, count), c.compare.epochs)]
        long: dict[str, Adapter] = {}
        if E2GAN in wanted:
            long[E2GAN] = self.translator.zero_adapter()
        if AS_LONG in wanted and PREDICTION in starts:
            long[AS_LONG] = starts[PREDICTION]
        groups.append((long, e2gan(c, count), c.compare.e2gan_epochs))
        rows = [self.row(concept, IDENTITY, repeat, judged.source)]
        pictures = [
            *self.show(concept, SOURCE, judged.source),
            *self.show(concept, TRUTH, judged.edited),
        ]
        for methods, recipe, epochs in groups:
            if not methods:
                continue
            at = {
                e: steps_of(e, count, recipe.batch)
                for e in self.scored_epochs(concept.concept_id, repeat, epochs, True)
            }
            trained = train_adapters(
                self.translator,
                [data] * len(methods),
                list(methods.values()),
                recipe,
                self.discriminator,
                c.seed + repeat,
                list(at.values()),
            )
            for (method, start), result in zip(methods.items(), trained, strict=True):
                if result.adapter is None:
                    errors.append(f"{method}, seed {c.seed + repeat}: {result.error}")
                    continue
                track = {**result.checkpoints, 0: start, recipe.steps: result.adapter}
                made = self.draw(data, [track[s] for s in at.values()], judged)
                cost = self.cost.adapter_step(recipe.batch, gan=recipe.gan_weight > 0)
                for (epoch, step), images in zip(at.items(), made, strict=True):
                    about = {
                        "epoch": epoch,
                        "epochs": epochs,
                        "step": step,
                        "images": count,
                        "trainable": sum(v.numel() for v in start.values()),
                        "total": self.cost.weights,
                        "training_flops": cost * recipe.batch * step,
                        "image_flops": self.cost.forward(),
                    }
                    rows.append(self.row(concept, method, repeat, images, about))
                    if not repeat and epoch in (0, epochs):
                        pictures += self.show(concept, method, images, epoch, rows[-1]["l1"])
        self.write(job, rows, pictures if not repeat else [])

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
        judged, _ = self.truth(concept)
        epochs = training.recipe.epochs
        step_flops, image_flops = training.step_flops, training.image_flops
        state, partial = f"{FOLDER}/jobs/{job}.state", f"{FOLDER}/jobs/{job}.partial.parquet"
        rows: list[dict[str, Any]] = []
        if self.run_dir.exists(state) and self.run_dir.exists(partial):
            training.load_state(self.run_dir.read(state))
            rows = self.run_dir.read_table(partial).to_pylist()
            rows = [r for r in rows if r["epoch"] <= training.epoch]
        made = None
        for epoch in self.scored_epochs(concept.concept_id, repeat, epochs, False):
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
            rows.append(self.row(concept, method, repeat, made, about))
            self.run_dir.write_table(partial, pa.Table.from_pylist(rows, ROWS))
            self.run_dir.write(state, training.state())
        assert made is not None  # the last epoch is always scored
        shown = self.show(concept, method, made, epochs, rows[-1]["l1"]) if not repeat else []
        self.write(job, rows, shown)
        for path in (state, partial):
            self.run_dir.delete(path)


class TimeMethods(CompareMethods):
    """Ray Data actor, alone: seconds of an epoch, and of a prediction."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"method": [], "seconds": [], "load": []}
        for job in batch["job"]:
            method, concept_id = str(job).split("/")
            load = os.getloadavg()[0]
            out["method"].append(method)
            out["seconds"].append(self.seconds(method, self.concepts[concept_id]))
            out["load"].append(load)
        return out

    def seconds(self, method: str, concept: Concept) -> float:
        """Median over repeats, after a first that is not counted."""
        repeats = self.config.compare.timed_repeats
        if method == "predict":
            return statistics.median(self._predict(concept) for _ in range(repeats + 1))
        if method in BASELINES:
            training = self.scratch(concept, method, 0)
            marks = []
            for epoch in range(min(repeats + 1, training.recipe.epochs)):
                before = training.seconds
                training.train(epoch + 1)
                marks.append(training.seconds - before)
            return statistics.median(marks[1:] or marks)
        c = self.config
        data = self.training(concept, c.compare.coreset)
        count = len(data.source)
        recipe = e2gan(c, count) if method == E2GAN else finetune(c, 1, count)
        steps = steps_of(1, count, recipe.batch)
        recipe = Recipe(**{**vars(recipe), "steps": steps})
        taken = []
        for _ in range(repeats + 1):
            (trained,) = train_adapters(
                self.translator,
                [data],
                [self.translator.zero_adapter()],
                recipe,
                self.discriminator,
                c.seed,
            )
            taken.append(trained.seconds * count / (steps * recipe.batch))
        return statistics.median(taken[1:])

    def _predict(self, concept: Concept) -> float:
        begun = self.wait()
        self.predict([concept.concept_id])
        return self.wait() - begun


def _scratch_methods(config: Config) -> list[str]:
    methods = [m for m in BASELINES if m in config.compare.methods]
    return methods if config.compare.scratch_concepts else []


def jobs(config: Config, run_dir: RunDir) -> list[str]:
    """kind/concept_id/repeat of everything to train, the longest first."""
    everything, scratch = chosen(config, run_dir)
    methods = _scratch_methods(config)
    long = [
        f"{m}/{i}/{r}"
        for i in scratch
        for m in methods
        for r in range(config.compare.scratch_repeats)
    ]
    return long + [f"{ADAPTING}/{i}/{r}" for r in range(config.repeats) for i in everything]


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    everything, scratch = chosen(config, run_dir)
    if not everything:
        raise StageError("compare: there is no held-out concept: give concepts.test_*")
    _check_concepts(run_dir, everything)
    for method in _scratch_methods(config):
        check_baseline(config, method)
    run_dir.write_json(f"{FOLDER}/concepts.json", {"compared": everything, "from_scratch": scratch})
    names = jobs(config, run_dir)
    there = set(run_dir.files(f"{FOLDER}/jobs"))
    todo = [j for j in names if f"{FOLDER}/jobs/{j}.parquet" not in there]
    progress = Progress("compare", len(names), "jobs", len(names) - len(todo))
    arguments = {"config": config_tree.to_dict(config), "run_dir": run_dir}
    bad = []
    for row in map_actors(config, CompareMethods, arguments, [{"job": j} for j in todo]):
        if row["error"]:
            bad.append({"key": row["job"], "reason": row["error"]})
        progress.add()
    record_errors(config, run_dir, "compare", bad, len(names))
    done = [j for j in names if run_dir.exists(f"{FOLDER}/jobs/{j}.parquet")]
    rows = [r for j in done for r in run_dir.read_table(f"{FOLDER}/jobs/{j}.parquet").to_pylist()]
    check_alike([r for r in rows if r["method"] != IDENTITY])
    times = _times(config, run_dir, arguments, (scratch or everything)[0])
    for row in rows:
        row["seconds"] = spent(row, times["seconds"])
    run_dir.write_table(f"{FOLDER}/rows.parquet", pa.Table.from_pylist(rows, ROWS))
    pictures = pa.concat_tables(
        run_dir.read_table(f"{FOLDER}/jobs/{j}.pictures.parquet") for j in done
    )
    run_dir.write_table(f"{FOLDER}/pictures.parquet", pictures)
    summary = {
        "preset": config.preset,
        "seed": config.seed,
        "split": config.adapt.split,
        "times": times,
        **comparison_numbers.summarise(rows, config.compare.methods),
    }
    summary["differs"] = differences(config, summary)
    run_dir.write_json(f"{FOLDER}/summary.json", summary)
    report_comparison.write(run_dir, FOLDER, summary, pictures.to_pylist())
    log("compare: " + " ".join(comparison_numbers.lines(summary)))
    return {"jobs": len(names), "concepts": len(everything), "from_scratch": len(scratch)}


def _check_concepts(run_dir: RunDir, compared: Sequence[str]) -> None:
    """UnfairError if a compared concept has an adapter in the collection, or was in the base."""
    splits = {c.concept_id: c.split for c in load_concepts(run_dir)}
    seen = {f.split("/")[1] for f in run_dir.files("adapters")}
    if splits and any(splits[i] == "train" for i in compared):
        raise StageError("compare: a compared concept is a training concept")
    leaked = sorted(seen & set(compared) - {i for i in compared if splits[i] == "val"})
    if leaked:
        raise StageError(
            f"compare: adapters/{leaked[0]} was collected for a held-out concept: the run directory"
            " was changed by hand; give redo=[gans]"
        )


def _times(
    config: Config, run_dir: RunDir, arguments: dict[str, Any], concept_id: str
) -> dict[str, Any]:
    """The serial pass, kept in times.json."""
    path = f"{FOLDER}/times.json"
    if run_dir.exists(path):
        return dict(run_dir.read_json(path))
    names = ["predict", "finetune", E2GAN, *_scratch_methods(config)]
    log("compare: timing every method alone")
    time.sleep(1)  # until the actors before have gone
    seconds: dict[str, float] = {}
    loads = []
    rows = [{"job": f"{m}/{concept_id}"} for m in names]
    for row in map_actors(config, TimeMethods, arguments, rows, len(rows), actors=1):
        seconds[row["method"]] = row["seconds"]
        loads.append(row["load"])
    times = {
        "seconds": seconds,
        "unit": "an epoch of the method's training images; predict: one adapter",
        "concept_id": concept_id,
        "load": max(loads),
        "machine": machine(),
    }
    run_dir.write(path, json.dumps(times, indent=2, ensure_ascii=False).encode())
    return times


def spent(row: dict[str, Any], seconds: dict[str, float]) -> float:
    """Seconds of training up to a row's epoch, its prediction included."""
    method = row["method"]
    if method == IDENTITY:
        return 0.0
    predicted = seconds["predict"] if method in (PREDICTION, SHUFFLED, AS_LONG) else 0.0
    if method in BASELINES:
        return row["epoch"] * seconds[method]
    each = seconds[E2GAN] if method in (E2GAN, AS_LONG) else seconds["finetune"]
    return predicted + row["epoch"] * each


def differences(config: Config, summary: dict[str, Any]) -> list[str]:
    """What a reader must know before putting these numbers beside the paper's."""
    c = config
    times = summary["times"]["machine"]
    where = times["gpu"] or f"{times['processor']}, {times['cores']} cores"
    features = summary["features"] or "no features"
    out = [
        f"Images are {c.images.size}×{c.images.size} (paper: 256×256); true edits by the editor"
        f" {c.editor!r} (paper: diffusion models).",
        f"Distances are over {features} (paper: Inception), at n = {summary['images'][0]}.",
        f"Seconds on {where}, one actor (paper: one H100).",
        f"{summary['table']['concepts']} concepts in the table above (paper: 45), {c.repeats} seeds"
        f" of the methods that adapt the base, {c.compare.scratch_repeats} of those from scratch.",
        f"pix2pix at width {c.pix2pix.width} and batch {c.pix2pix.batch} (paper: 64, 1); the"
        " weights trained are in the table.",
        "pix2pix-zero-distilled is trained on the same true edits as all others, not on edits by"
        " pix2pix-zero: its row shows what the network and its budget give.",
        "E²GAN’s ranks are those of the run’s adapters (lora.rank, lora.ranks; `denoised-weights"
        " ranks` searches them), its coreset that of our fine-tune.",
    ]
    if not c.gans.gan_weight:
        out.append("Adapters are trained by L1 alone here (gans.gan_weight=0), in every row.")
    return out
