"""What overfit trials share: a concept's trained adapter, unseen images, and its ends of the scale.

Made once per concept, before the trials: all variants and seeds are scored on the same images, and
beside the same two rows, the ground truth (the trained adapter itself) and zero LoRA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch

from modeling.concepts.concept import Concept
from modeling.metrics.distances import frechet_distance_from_features, kid
from modeling.metrics.features import FeatureExtractor
from modeling.targets.adapter_training import to_unit, train_adapters, translate_all
from modeling.targets.lora import AdaptedTranslator, Adapter, stack
from modeling.targets.recipe import collection_recipe
from modeling.text import TextEmbedding
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import changes, depends_on, finished, identity
from pipelines.runtime.stage_table import BY_NAME
from pipelines.stages.adapter_metrics import FOLDER as ADAPTERS
from pipelines.stages.adapter_metrics import load_metrics
from pipelines.stages.concepts import load_concepts, with_adapter
from pipelines.stages.gans import load_adapter
from pipelines.stages.judging import FAR, Judge, features_of
from pipelines.stages.trainer import Trainer
from pipelines.stages.weights import drawn

FOLDER = "tuning/subjects"
TRUTH, ZERO = "ground truth", "zero LoRA"
SCORING = ("images", "fd_images", "kid", "features", "features_path", "features_size")
"""Keys of `evaluate` that scores depend on."""


def chosen(run_dir: RunDir, wanted: Sequence[str], seed: int) -> list[Concept]:
    """The concepts that a study overfits: by text, by id, or one of a category by the seed.

    Of training concepts whose adapter does better than nothing on validation images. Raises
    ConfigError for one that is not there.
    """
    known = [c for c in with_adapter(load_concepts(run_dir)) if c.split == "train"]
    out: list[Concept] = []
    for name in wanted:
        named = [c for c in known if name in (c.text, c.concept_id)]
        pool = [c for c in known if c.category == name and not named]
        one = drawn([c.concept_id for c in pool if _learned(run_dir, c.concept_id)], 1, seed)
        found = named or [c for c in pool if c.concept_id in one]
        if not found and pool:
            raise ConfigError(
                f"overfit.concepts: none of {len(pool)} adapters of the category {name!r} does"
                " better than nothing: train them longer, or name a concept by its text"
            )
        if not found:
            raise ConfigError(
                f"overfit.concepts: {name!r} is neither a training concept with an adapter nor a"
                f" category of one (there are {', '.join(sorted({c.category for c in known}))});"
                f" give two of these, or texts, such as overfit.concepts=['{known[0].text}']"
            )
        out.append(found[0])
    if len({c.concept_id for c in out}) < len(out):
        raise ConfigError("overfit.concepts: the same concept twice")
    return out


def _learned(run_dir: RunDir, concept_id: str) -> bool:
    try:
        metrics = load_metrics(run_dir, concept_id)
    except ArtifactError:  # its training failed: there is no adapter
        return False
    return bool(metrics["l1"] < metrics["identity"])


def own_adapters(config: Config, run_dir: RunDir) -> bool:
    """Whether the study's adapters are trained for it, by another recipe or rank than the run's."""
    stage = BY_NAME["gans"]
    marker = finished(run_dir, "gans")
    return marker is None or bool(changes(stage, marker, depends_on(stage, config)))


def subject_key(config: Config, run_dir: RunDir, concept_id: str) -> str:
    """What decides a subject: the base, the adapter, and how it is scored."""
    base = finished(run_dir, "base")
    parts: list[Any] = [concept_id, identity(base) if base else "", config.seed]
    parts.append({k: getattr(config.evaluate, k) for k in SCORING})
    if own_adapters(config, run_dir):
        parts.append(depends_on(BY_NAME["gans"], config))
    else:
        parts.append(run_dir.checksum(f"{ADAPTERS}/{concept_id}/adapter_model.safetensors"))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Subject:
    """One concept to overfit. Images are uint8 [n, 3, H, W], features [n, d]."""

    concept_id: str
    text: str
    embedding: TextEmbedding
    adapter: Adapter
    source: torch.Tensor
    edited: torch.Tensor
    features: torch.Tensor | None
    """Of `edited`; None where no KID is wanted."""
    wide_source: torch.Tensor | None
    """Further sources, for the Fréchet distance; None where it is not wanted."""
    wide_features: torch.Tensor | None
    """Of their true edits."""
    scores: dict[str, dict[str, Any]]
    """Of the two ends, ground truth and zero LoRA."""

    def gap(self, l1: float) -> float:
        """How much of the way from zero LoRA to the trained adapter is left: 1 all, 0 none."""
        low, high = self.scores[TRUTH]["l1"], self.scores[ZERO]["l1"]
        return (l1 - low) / (high - low)

    def write(self, run_dir: RunDir, folder: str) -> None:
        tensors = {f"adapter.{k}": v.cpu() for k, v in self.adapter.items()}
        tensors |= {"tokens": self.embedding.tokens, "pooled": self.embedding.pooled}
        for name in ("source", "edited", "features", "wide_source", "wide_features"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value.cpu()
        data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        about = {"concept_id": self.concept_id, "text": self.text, "scores": self.scores}
        files = {"subject.safetensors": data, "subject.json": json.dumps(about, indent=2).encode()}
        run_dir.write_files(folder, files, last="subject.json")

    @classmethod
    def read(cls, run_dir: RunDir, folder: str) -> Subject:
        """ArtifactError if it is missing or damaged."""
        about = run_dir.read_json(f"{folder}/subject.json")
        path = f"{folder}/subject.safetensors"
        try:
            tensors = safetensors.torch.load(run_dir.read(path))
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"{run_dir.url(path)} is damaged: {error}") from error
        return cls(
            about["concept_id"],
            about["text"],
            TextEmbedding(tensors["tokens"], tensors["pooled"]),
            {k.removeprefix("adapter."): v for k, v in tensors.items() if k.startswith("adapter.")},
            tensors["source"],
            tensors["edited"],
            tensors.get("features"),
            tensors.get("wide_source"),
            tensors.get("wide_features"),
            about["scores"],
        )


def embed(features: FeatureExtractor, images: torch.Tensor) -> np.ndarray:
    """Features [n, d] of uint8 [n, 3, H, W]."""
    return features(images.permute(0, 2, 3, 1).contiguous().numpy())


def score(
    adapter: Adapter,
    subject: Subject,
    translator: AdaptedTranslator,
    features: FeatureExtractor | None,
) -> dict[str, Any]:
    """L1 of an adapter on the subject's images; with `features` KID and FD, too.

    n and fd_n: images that they were taken on. Raises MetricError as the metrics do.
    """
    device = next(translator.network.parameters()).device

    def drawn_by(source: torch.Tensor) -> torch.Tensor:
        one = stack([{k: v.to(device) for k, v in adapter.items()}])
        tokens = [subject.embedding.tokens]
        return translate_all(translator, one, source.to(device), tokens)[0].cpu()

    made = drawn_by(subject.source)
    out: dict[str, Any] = {
        "l1": float((to_unit(made) - to_unit(subject.edited)).abs().mean()),
        "n": len(made),
        "kid": None,
        "fd": None,
        "fd_n": None,
    }
    if features is not None and subject.features is not None:
        true = subject.features.numpy()
        out["kid"] = kid(embed(features, made), true, 1, len(true))
    if features is not None and subject.wide_source is not None:
        assert subject.wide_features is not None
        true, wide = subject.wide_features.numpy(), drawn_by(subject.wide_source)
        out["fd"] = frechet_distance_from_features(embed(features, wide), true)
        out["fd_n"] = len(wide)
    return out


class PrepareSubjects(Trainer):
    """Ray Data actor: makes the subjects of a study, one concept after another."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir, folders: Mapping[str, str]) -> None:
        super().__init__(config, run_dir)
        self.folders = folders
        self.concepts = {c.concept_id: c for c in load_concepts(run_dir)}
        self.judge = Judge(self.config, run_dir)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "error": []}
        for concept_id in map(str, batch["concept_id"]):
            error = ""
            try:
                subject = self.subject(self.concepts[concept_id])
                subject.write(self.run_dir, self.folders[concept_id])
            except Exception as reason:  # one concept must not lose the others; it is recorded
                error = f"{type(reason).__name__}: {reason}"
            out["concept_id"].append(concept_id)
            out["error"].append(error)
        return out

    def subject(self, concept: Concept) -> Subject:
        e = self.config.evaluate
        near = self.judge.judged(concept, 0, e.images)
        wide = self.judge.judged(concept, FAR, e.fd_images) if e.fd_images else None
        extract = features_of(self.config) if e.kid or wide else None

        def features(images: torch.Tensor) -> torch.Tensor | None:
            return None if extract is None else torch.from_numpy(embed(extract, images))

        subject = Subject(
            concept.concept_id,
            concept.text,
            self.texts[concept.concept_id],
            self.adapter(concept.concept_id),
            near.source,
            near.edited,
            features(near.edited) if e.kid else None,
            wide.source if wide else None,
            features(wide.edited) if wide else None,
            {},
        )
        ends = {TRUTH: subject.adapter, ZERO: self.translator.zero_adapter()}
        for name, adapter in ends.items():
            subject.scores[name] = score(adapter, subject, self.translator, extract)
        if not subject.scores[TRUTH]["l1"] < subject.scores[ZERO]["l1"]:
            raise ArtifactError(
                f"the adapter of {concept.text!r} is no better than zero LoRA on unseen images, so"
                " there is nothing to overfit: name another concept in overfit.concepts"
            )
        return subject

    def adapter(self, concept_id: str) -> Adapter:
        """The run's own, or one trained as the collection trains them."""
        if not own_adapters(self.config, self.run_dir):
            return load_adapter(self.run_dir, f"{ADAPTERS}/{concept_id}")
        steps = self.config.gans.steps or int(
            self.run_dir.read_json("stages/gans.json")["summary"]["steps"]
        )
        (trained,) = train_adapters(
            self.translator,
            [self.data(concept_id)],
            [self.translator.zero_adapter()],
            collection_recipe(self.config.gans, steps),
            self.discriminator,
            self.config.seed,
        )
        if trained.adapter is None:
            raise ArtifactError(f"{concept_id}: {trained.error}")
        return trained.adapter
