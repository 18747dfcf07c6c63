"""Stage `generator`: the weight generator, trained with Ray Train on the weight dataset."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from modeling.targets.adapter_training import batch_order, pad_tokens
from modeling.text import TextEmbedding
from modeling.weights.checkpoint import (
    CONFIG_FILE,
    EMA_FILE,
    MODEL_FILE,
    Checkpoint,
    from_files,
    to_files,
)
from modeling.weights.generator_training import GeneratorTraining, ImageBatch
from modeling.weights.interface import GeneratorConfig, GeneratorError, TextBatch
from modeling.weights.recipe import generator_recipe
from modeling.weights.weight_generator import build
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.config.sections.training import Generator
from pipelines.runtime.ingest import CACHE_BYTES, Batch, cached_batches, streamed_batches
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import quiet_worker, threads_per_worker
from pipelines.runtime.training import fit, report
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts, load_text
from pipelines.stages.pairs import decode_rows, encoded_pairs, usable
from pipelines.stages.weights import block_files, drawn, load_layout

FOLDER = "generator"
BEFORE_IMAGES = "before-images.safetensors"


@dataclass(frozen=True)
class Member:
    """One training of the stage: which section of the configuration describes it, which seed."""

    section: str
    repeat: int

    @property
    def folder(self) -> str:
        """The weight generator that predicts and serves lies in FOLDER itself."""
        if self.section == "generator" and not self.repeat:
            return FOLDER
        return f"{FOLDER}/{self.section}-{self.repeat}"

    def of(self, config: Config) -> Config:
        """The configuration with this member's section and seed as `generator` and `seed`."""
        section = getattr(config, self.section)
        plain = Generator(**{f.name: getattr(section, f.name) for f in fields(Generator)})
        return replace(config, generator=plain, seed=config.seed + self.repeat)


def members(config: Config) -> list[Member]:
    sections = ["generator", *(["rival"] if config.rival.train else [])]
    return [Member(s, i) for s in sections for i in range(config.repeats)]


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    import ray.data

    files = block_files(run_dir)
    size = sum(run_dir.size(f) for f in files)
    cached = size <= CACHE_BYTES
    pools = image_pools(config, run_dir)  # by the run's seed, like the adapters that are used
    out: dict[str, Any] = {}
    for member in members(config):
        own = member.of(config)
        files_of = [CONFIG_FILE, MODEL_FILE, EMA_FILE]
        files_of += [BEFORE_IMAGES] if own.generator.image_steps else []
        if all(run_dir.exists(f"{member.folder}/{name}") for name in files_of):
            continue
        blocks = ray.data.read_parquet([run_dir.path(f) for f in files], filesystem=run_dir.fs)
        blocks = blocks.filter(expr="split == 'train'")
        g = own.generator
        log(
            f"generator: {g.kind}, seed {own.seed}, {g.steps} steps on weights"
            + (f", then {g.image_steps} on the image loss" if g.image_steps else "")
            + f"; data {'kept in memory' if cached else 'streamed'}"
        )
        metrics, made = fit(
            config,
            run_dir,
            "generator",
            train_loop,
            {"cached": cached, "member": config_tree.to_dict(own), "pools": pools},
            {"train": blocks},
            workers=g.workers,
            split_data=not cached,
            member=f"{member.section}-{member.repeat}",
        )
        made.pop("training.safetensors", None)
        made = {k: v for k, v in made.items() if not k.startswith(".")}
        run_dir.write_files(member.folder, made, last="generator.json")
        kept = {k: metrics.get(k) for k in ("denoising", "image", "workers")}
        if member.folder == FOLDER:
            out |= kept
        else:
            out[f"{member.section}-{member.repeat}"] = kept
    out["weights"] = sum(p.numel() for p in load_generator(run_dir).model.parameters())
    return out


def generator_config(config: Config, n_blocks: int, text_dim: int) -> GeneratorConfig:
    g = config.generator
    return GeneratorConfig.from_dict(
        {
            "block_size": config.weights.block_size,
            "n_blocks": n_blocks,
            "text_dim": text_dim,
            **{
                key: getattr(g, key)
                for key in (
                    *("kind", "width", "depth", "heads", "prediction", "schedule"),
                    *("channels", "fold", "block_conditioning"),
                )
            },
        }
    )


def text_batch(embeddings: list[TextEmbedding]) -> TextBatch:
    tokens, mask = pad_tokens([e.tokens for e in embeddings])
    return TextBatch(tokens, mask, torch.stack([e.pooled for e in embeddings]))


def train_loop(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    import ray.train
    from ray.train import get_context
    from ray.train.torch import get_device, prepare_model

    config, run_dir = config_tree.from_dict(settings["member"]), settings["run_dir"]
    quiet_worker()
    torch.set_num_threads(threads_per_worker(config, settings["workers"]))
    g = config.generator
    device, world, rank = (
        get_device(),
        get_context().get_world_size(),
        get_context().get_world_rank(),
    )
    layout, normalisation = load_layout(run_dir)
    texts, wordings = load_text(run_dir), _wordings(run_dir)
    dim = next(iter(texts.values())).pooled.shape[0]
    torch.manual_seed(config.seed)
    model = build(generator_config(config, layout.n_blocks, dim)).to(device)
    translator, critic = load_base(config, run_dir) if g.image_steps else (None, None)
    if translator is not None and critic is not None:
        translator, critic = translator.to(device), critic.to(device)
    training = GeneratorTraining(
        model,
        layout,
        normalisation.to(device),
        generator_recipe(config.generator, config.adapt.t),
        config.seed,
        translator,
        prepare_model(model) if world > 1 else None,
        rank,
        critic,
        prepare_model(critic) if world > 1 and g.image_gan and critic is not None else None,
    )
    saved = ray.train.get_checkpoint()
    before_images = b""
    if saved:
        with saved.as_directory() as folder:
            training.load_state(Path(folder, "training.safetensors").read_bytes())
            kept = Path(folder, BEFORE_IMAGES)
            before_images = kept.read_bytes() if kept.exists() else b""
    shard = ray.train.get_dataset_shard("train")

    def batches(phase_steps: int, size: int, start: int, seed: int) -> Any:
        if settings["cached"]:
            return cached_batches(shard, phase_steps, size, seed, start, rank, world)
        return streamed_batches(shard, phase_steps, size, seed, start)

    images = None
    if g.image_steps:
        images = _Images(config, run_dir, settings["pools"], texts, wordings, rank, world)
    recipe = training.recipe
    progress = Progress("generator", recipe.total, "steps", training.done)
    recent: dict[str, list[float]] = defaultdict(list)

    def advance(batch: Batch, on_images: bool) -> None:
        nonlocal before_images
        rng = random.Random(f"{config.seed}-{training.done}-{rank}")
        # a paraphrase shares its parent's adapter: any wording may stand for the concept
        text = text_batch([texts[rng.choice(wordings[i])] for i in batch.concept_ids])
        pictures = None
        if on_images and images:
            pictures = images.read(training.done - recipe.steps, rng)
        losses = training.step(batch.blocks, text, pictures)
        for key, value in losses.items():
            recent[key] = [*recent[key][-49:], value]
        means = {k: float(np.mean(v)) for k, v in recent.items()}
        if training.done == recipe.steps and recipe.image_steps:
            before_images = to_files(model, training.ema, {})[EMA_FILE]
            recent.clear()  # losses of the other phase, which a resumed run would not have
        if rank == 0:
            progress.add(note=", ".join(f"{k} {v:.3f}" for k, v in means.items()))
        if training.done % g.checkpoint_every and training.done != recipe.total:
            return
        files = None
        if rank == 0:
            about = {
                "step": training.done,
                "t": config.adapt.t,
                "text_encoder": config.text_encoder,
            }
            files = to_files(model, training.ema, about)
            files["training.safetensors"] = training.state()
            if before_images:
                files[BEFORE_IMAGES] = before_images
        metrics = {"step": training.done, "workers": world, **means}
        report(run_dir, "generator", metrics, files)

    if training.done < recipe.steps:
        for batch in batches(recipe.steps, g.batch, training.done, config.seed):
            advance(batch, on_images=False)
    if training.done < recipe.total:
        start = training.done - recipe.steps
        for batch in batches(recipe.image_steps, g.image_concepts, start, config.seed + 1):
            advance(batch, on_images=True)


def _wordings(run_dir: RunDir) -> dict[str, list[str]]:
    """For each concept, the concept_ids of its own text and of its paraphrases."""
    out: dict[str, list[str]] = defaultdict(list)
    for concept in load_concepts(run_dir):
        owner = concept.parents[0] if concept.origin == "paraphrased" else concept.concept_id
        out[owner].append(concept.concept_id)
    return out


def image_pools(config: Config, run_dir: RunDir) -> list[list[str]]:
    """concept_ids that the image loss draws from, equally from each pool that is not empty.

    Concepts with an adapter, combinations without, single concepts without. Where
    `weights.concepts` leaves some adapters out, the same part of the others is left out.
    """
    train = [c for c in usable(run_dir) if c.split == "train"]
    kinds = [
        [c for c in train if c.adapter],
        [c for c in train if not c.adapter and c.origin == "combined"],
        [c for c in train if not c.adapter and c.origin != "combined"],
    ]
    part = config.weights.concepts / len(kinds[0]) if config.weights.concepts else 1.0
    pools = [
        drawn([c.concept_id for c in kind], round(part * len(kind)), config.seed) for kind in kinds
    ]
    return [sorted(pool) for pool in pools if pool]


class _Images:
    """Random training pairs of random concepts, as many from each pool.

    They stay in memory as PNG: of hundreds of concepts each is needed every hundredth step.
    """

    def __init__(
        self,
        config: Config,
        run_dir: RunDir,
        pools: list[list[str]],
        texts: Mapping[str, TextEmbedding],
        wordings: dict[str, list[str]],
        rank: int,
        world: int,
    ) -> None:
        g = config.generator
        self.texts, self.wordings, self.count = texts, wordings, g.image_batch
        self.pools = pools
        self.orders = []
        for i, pool in enumerate(pools):
            share = g.image_concepts * (i + 1) // len(self.pools)
            share -= g.image_concepts * i // len(self.pools)
            order = batch_order(len(pool), g.image_steps, share * world, config.seed + 1 + i)
            self.orders.append(order.view(g.image_steps, world, share)[:, rank])

        @lru_cache(maxsize=8192)
        def pairs(concept_id: str) -> pa.Table:
            return encoded_pairs(run_dir, concept_id, "train")

        self.pairs = pairs

    def read(self, step: int, rng: random.Random) -> ImageBatch:
        """This rank's pairs and prompts of one step of the second phase."""
        chosen = [
            pool[i]
            for pool, order in zip(self.pools, self.orders, strict=True)
            for i in order[step].tolist()
        ]
        sources, edits, texts = [], [], []
        for concept_id in chosen:
            rows = self.pairs(concept_id)
            pictures = decode_rows(rows.take(rng.choices(range(rows.num_rows), k=self.count)))
            sources.append(torch.from_numpy(pictures.source))
            edits.append(torch.from_numpy(pictures.edited))
            texts.append(self.texts[rng.choice(self.wordings[concept_id])])
        return ImageBatch(torch.stack(sources), torch.stack(edits), text_batch(texts))


def load_generator(
    run_dir: RunDir, folder: str = FOLDER, before_images: bool = False
) -> Checkpoint:
    """A trained weight generator, its EMA weights in place.

    before_images: its weights at the end of the steps on weights, before those on the image loss.
    """
    names = {CONFIG_FILE: CONFIG_FILE, MODEL_FILE: MODEL_FILE}
    names[EMA_FILE] = BEFORE_IMAGES if before_images else EMA_FILE
    try:
        checkpoint = from_files({n: run_dir.read(f"{folder}/{f}") for n, f in names.items()})
    except GeneratorError as error:
        raise ArtifactError(f"{run_dir.url(folder)}: {error}") from error
    assert checkpoint.ema is not None
    checkpoint.ema.copy_to(checkpoint.model)
    checkpoint.model.eval()
    return checkpoint
