"""Stage `evaluate`: the prediction against every control, at equal n, along the fine-tune.

Every method starts from its own adapter and takes the same steps on the same images from the same
discriminator (modeling/training.py); they differ in the start alone. Scored on images that no
training saw: fresh avatars, or the test split of a folder.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling.concepts import Concept
from modeling.controls import KernelRidge, mean_adapter, nearest_text, noised_nearest, shuffled
from modeling.coreset import image_coreset
from modeling.editors import load_source, make_editor, source_ids
from modeling.features import FeatureExtractor, make_features
from modeling.images import encode_png
from modeling.lora import Adapter, stack
from modeling.metrics import frechet_distance_from_features, kid
from modeling.training import Trained, to_unit, train_adapters, translate_all
from pipelines import config as configuration
from pipelines.actors import map_actors
from pipelines.adapt import (
    Predictor,
    cut,
    heldout,
    load_timings,
    recipe,
    scored_steps,
    step_folder,
)
from pipelines.artifacts import RunDir
from pipelines.concepts import load_concepts
from pipelines.config import Config, Evaluate, resolve_editor
from pipelines.gans import load_adapter
from pipelines.gans import recipe as collection_recipe
from pipelines.log import Progress, log
from pipelines.pairs import load_pairs
from pipelines.stages import record_errors
from pipelines.weights import load_blocks

FOLDER = "evaluation"
PREDICTION, IDENTITY, CEILING = "prediction", "identity", "ground-truth adapter"
ROWS = pa.schema(
    [
        ("method", pa.string()),
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("heldout", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),
        ("seconds", pa.float64()),  # of training so far, prediction included
        ("l1", pa.float64()),  # mean |difference|, images in [-1, 1]
        ("kid", pa.float64()),
        ("fd", pa.float64()),
        ("n", pa.int32()),  # images scored for l1 and kid
    ]
)
PICTURES = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("method", pa.string()),
        ("step", pa.int32()),
        ("image_id", pa.string()),
        ("image", pa.binary()),
    ]
)


class Judged:
    """Unseen images of one concept: uint8 [n, 3, H, W] sources and their true edits."""

    def __init__(self, ids: list[str], source: torch.Tensor, edited: torch.Tensor) -> None:
        self.ids, self.source, self.edited = ids, source, edited


def features_of(config: Evaluate) -> FeatureExtractor:
    if config.features == "inception":
        return make_features("inception", weights=config.features_path or None)
    return make_features("efficientnet-lite0", input_size=config.features_size)


class EvaluateConcept(Predictor):
    """Ray Data actor: all methods on one concept; writes the concept's rows and pictures."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.concepts = {c.concept_id: c for c in load_concepts(run_dir)}
        ids, raw = load_blocks(run_dir, "train")
        self.blocks = self.normalisation.apply(raw.to(self.device))
        self.pooled = torch.stack([self.texts[i].pooled for i in ids]).to(self.device)
        tests = heldout(run_dir)
        self.other = (
            dict(zip(tests, shuffled(tests, self.config.seed), strict=True))
            if len(tests) > 1
            else {}
        )
        self._sources: dict[tuple[int, int], list[Any]] = {}

    @cached_property
    def ridge(self) -> KernelRidge:
        return KernelRidge.fit(self.pooled, self.blocks)

    @cached_property
    def features(self) -> FeatureExtractor:
        return features_of(self.config.evaluate)

    def start(self, method: str, concept_id: str) -> Adapter:
        """The adapter from which a control starts."""
        if method == "zero LoRA":
            return self.translator.zero_adapter()
        if method == "shuffled prompt":
            return self.predict([self.other[concept_id]])[0]
        query = self.texts[concept_id].pooled.to(self.device)
        if method == "mean adapter":
            blocks = mean_adapter(self.blocks)
        elif method == "nearest text":
            blocks = nearest_text(query, self.pooled, self.blocks)[0]
        elif method == "noised nearest":
            blocks = noised_nearest(query, self.pooled, self.blocks, 0.5, self.config.seed)[0]
        elif method == "ridge":
            blocks = self.ridge.predict(query).to(self.blocks)
        else:
            raise ValueError(f"no control named {method!r}")
        return self.layout.from_blocks(self.normalisation.invert(blocks))

    def judged(self, concept: Concept, first: int, count: int) -> Judged:
        """Fresh avatars, `first` … after those of the pairs; or the test split of a folder."""
        c = self.config
        if c.images.source != "avatars":
            pairs = load_pairs(self.run_dir, concept.concept_id, "test")
            return Judged(
                pairs.image_ids, torch.from_numpy(pairs.source), torch.from_numpy(pairs.edited)
            )
        if (first, count) not in self._sources:
            names = source_ids("avatars", count, c.images.count + first)
            self._sources[first, count] = [load_source(i, "avatars", c.images.size) for i in names]
        sources = self._sources[first, count]
        editor = make_editor(resolve_editor(c))

        def tensor(images: list[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())

        return Judged(
            [s.image_id for s in sources],
            tensor([s.image for s in sources]),
            tensor([editor.edit(s, concept).image for s in sources]),
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "error": []}
        for concept_id in batch["concept_id"]:
            out["concept_id"].append(str(concept_id))
            out["error"].append(self.evaluate(self.concepts[str(concept_id)]))
        return out

    def evaluate(self, concept: Concept) -> str:
        """Write `concepts/<id>.{rows,pictures}.parquet`; returns errors of single methods."""
        tracks = {PREDICTION: self.predicted(concept.concept_id)}
        timings = load_timings(self.run_dir, concept.concept_id)
        seconds = {PREDICTION: timings["finetune"]}
        extra = {PREDICTION: timings["predict"]}
        errors = []
        for method, trained, start in self.controls(concept.concept_id):
            if trained.adapter is None:
                errors.append(f"{method}: {trained.error}")
                continue
            last = max(scored_steps(self.config))
            tracks[method] = {0: start, **trained.checkpoints, last: trained.adapter}
            # starts are trained fused: the time of one alone is the prediction's
            seconds[method] = timings["finetune"]
        if self.config.evaluate.ceiling:
            ceiling = self.ceiling(concept.concept_id)
            if ceiling.adapter is None:
                errors.append(f"{CEILING}: {ceiling.error}")
            else:
                final = len(ceiling.losses)
                tracks[CEILING] = {final: ceiling.adapter}
                seconds[CEILING] = ceiling.seconds
        judged = self.judged(concept, 0, self.config.evaluate.images)
        rows, pictures = self.score(concept, judged, tracks, seconds, extra)
        path = f"{FOLDER}/concepts/{concept.concept_id}"
        self.run_dir.write_table(
            f"{path}.pictures.parquet", pa.Table.from_pylist(pictures, PICTURES)
        )
        self.run_dir.write_table(f"{path}.rows.parquet", pa.Table.from_pylist(rows, ROWS))
        return "; ".join(errors)

    def predicted(self, concept_id: str) -> dict[int, Adapter]:
        return {
            s: load_adapter(self.run_dir, step_folder(concept_id, s))
            for s in scored_steps(self.config)
        }

    def controls(self, concept_id: str) -> list[tuple[str, Trained, Adapter]]:
        """Every control, fine-tuned as the prediction was."""
        c = self.config
        methods = [m for m in c.evaluate.controls if m != "shuffled prompt" or self.other]
        if not methods:
            return []
        data = self.data(concept_id)
        small = cut(data, image_coreset(data.source, c.adapt.coreset, c.seed))
        starts = [self.start(m, concept_id) for m in methods]
        results = train_adapters(
            self.translator,
            [small] * len(methods),
            starts,
            recipe(c),
            self.discriminator,
            c.seed,
            c.adapt.keep,
        )
        return list(zip(methods, results, starts, strict=True))

    def ceiling(self, concept_id: str) -> Trained:
        """An adapter trained on the ground truth by the collection's recipe."""
        steps = int(self.run_dir.read_json("stages/gans.json")["summary"]["steps"])
        (trained,) = train_adapters(
            self.translator,
            [self.data(concept_id)],
            [self.translator.zero_adapter()],
            collection_recipe(self.config, steps),
            self.discriminator,
            self.config.seed,
        )
        return trained

    def score(
        self,
        concept: Concept,
        judged: Judged,
        tracks: dict[str, dict[int, Adapter]],
        seconds: dict[str, float],
        extra: dict[str, float],
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows (one per method and step) and pictures (end points, first images)."""
        c = self.config
        truth, source = judged.edited, judged.source
        key = {"concept_id": concept.concept_id, "text": concept.text}
        rows: list[dict[str, Any]] = []
        pictures: list[dict[str, Any]] = []

        def show(method: str, step: int, images: torch.Tensor) -> None:
            for image_id, image in list(zip(judged.ids, images, strict=True))[: c.report.pictures]:
                data = encode_png(image.permute(1, 2, 0).contiguous().numpy())
                pictures.append(
                    {**key, "method": method, "step": step, "image_id": image_id, "image": data}
                )

        wide = (
            judged
            if not c.evaluate.fd_images
            else self.judged(concept, 10**6, c.evaluate.fd_images)
        )
        true_kid = self._embed(truth) if c.evaluate.kid else None
        true_fd = self._embed(wide.edited) if c.evaluate.fd_images else None

        def row(
            method: str, step: int, spent: float, made: torch.Tensor, made_wide: Any, end: bool
        ) -> None:
            values: dict[str, Any] = {"kid": None, "fd": None}
            if end and true_kid is not None:
                values["kid"] = kid(self._embed(made), true_kid, 1, len(true_kid), c.seed)
            if end and true_fd is not None:
                values["fd"] = frechet_distance_from_features(self._embed(made_wide), true_fd)
            rows.append(
                {
                    **key,
                    **values,
                    "method": method,
                    "split": concept.split,
                    "heldout": concept.heldout,
                    "seed": c.seed,
                    "step": step,
                    "seconds": spent,
                    "l1": float((to_unit(made) - to_unit(truth)).abs().mean()),
                    "n": len(truth),
                }
            )
            if end:
                show(method, step, made)

        show("source", 0, source)
        show("ground truth", 0, truth)
        row(IDENTITY, 0, 0.0, source, wide.source, True)
        for method, track in tracks.items():
            last = max(track)
            adapters = stack(list(track.values()))
            tokens = [self.texts[concept.concept_id].tokens] * len(track)
            made = translate_all(self.translator, adapters, source.to(self.device), tokens).cpu()
            for i, step in enumerate(track):
                end = step in (0, last)
                made_wide = None
                if end and true_fd is not None:
                    one = {k: v[i : i + 1] for k, v in adapters.items()}
                    x = wide.source.to(self.device)
                    made_wide = translate_all(self.translator, one, x, tokens[:1])[0].cpu()
                spent = extra.get(method, 0.0) + seconds[method] * (step / last if last else 0.0)
                row(method, step, spent, made[i], made_wide, end)
        return rows, pictures

    def _embed(self, images: torch.Tensor) -> np.ndarray:
        return self.features(images.permute(0, 2, 3, 1).contiguous().numpy())


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    done = [f for f in run_dir.files("adapted") if f.endswith("/timings.json")]
    ids = [f.split("/")[1] for f in done]
    todo = [i for i in ids if not run_dir.exists(f"{FOLDER}/concepts/{i}.rows.parquet")]
    progress = Progress("evaluate", len(ids), "concepts", len(ids) - len(todo))
    bad = []
    arguments = {"config": configuration.to_dict(config), "run_dir": run_dir}
    for row in map_actors(config, EvaluateConcept, arguments, [{"concept_id": i} for i in todo]):
        if row["error"]:
            bad.append({"key": row["concept_id"], "reason": row["error"]})
        progress.add()
    record_errors(config, run_dir, "evaluate", bad, len(ids))
    tables = {
        kind: pa.concat_tables(
            run_dir.read_table(f"{FOLDER}/concepts/{i}.{kind}.parquet") for i in ids
        )
        for kind in ("rows", "pictures")
    }
    for kind, table in tables.items():
        run_dir.write_table(f"{FOLDER}/{kind}.parquet", table)
    label = features_of(config.evaluate).description if config.evaluate.kid else ""
    run_dir.write(f"{FOLDER}/about.json", json.dumps({"features": label}).encode())
    summary = summarise(tables["rows"].to_pylist())
    for line in summary:
        log(
            f"evaluate: {line['heldout']:<13} {line['method']:<21}"
            f" L1 {line['before']:.3f} → {line['after']:.3f}"
        )
    return {"concepts": len(ids), "l1": summary}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean L1 over concepts at each method's first and last step, per held-out set."""
    out = []
    for held in sorted({r["heldout"] for r in rows}):
        mine = [r for r in rows if r["heldout"] == held]
        for method in dict.fromkeys(r["method"] for r in mine):
            one = [r for r in mine if r["method"] == method]
            first, last = min(r["step"] for r in one), max(r["step"] for r in one)
            out.append(
                {
                    "heldout": held,
                    "method": method,
                    "before": float(np.mean([r["l1"] for r in one if r["step"] == first])),
                    "after": float(np.mean([r["l1"] for r in one if r["step"] == last])),
                }
            )
    return out
