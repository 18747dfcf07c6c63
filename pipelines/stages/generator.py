"""Stage `generator`: the weight generator, trained with Ray Train on the weight dataset."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling import compiling
from modeling.losses import RecentMeans
from modeling.precision import use
from modeling.targets.adapter_training import to_uint8, to_unit
from modeling.weights.checkpoint import CONFIG_FILE, EMA_FILE, MODEL_FILE, to_files
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.image_loss import ImageBatch
from modeling.weights.interface import TextBatch
from modeling.weights.recipe import generator_recipe
from modeling.weights.weight_generator import build
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime import heartbeat
from pipelines.runtime.ingest import CACHE_BYTES, Batch, cached_batches, streamed_batches
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import quiet_worker, training_threads
from pipelines.runtime.tracking import tracker
from pipelines.runtime.training import data_parallel, fit, report
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_text
from pipelines.stages.gradients import fit_basis
from pipelines.stages.image_pairs import Draws, ImagePairs, image_pools, wordings_of
from pipelines.stages.refiners import train_refiners
from pipelines.stages.shared_starts import learn_starts
from pipelines.stages.weight_generators import (
    BEFORE_IMAGES,
    FOLDER,
    generator_config,
    load_generator,
    members,
    text_batch,
)
from pipelines.stages.weights import block_files, load_layout


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    import ray.data

    files = block_files(run_dir)
    layout, _ = load_layout(run_dir)
    rows = sum(len(run_dir.read_columns(file, ["split"])) for file in files)
    cached = 4 * rows * layout.n_blocks * layout.block_size <= CACHE_BYTES
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
            {
                **{"cached": cached, "member": config_tree.to_dict(own), "pools": pools},
                "name": member.folder.rpartition("/")[2],
            },
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
    if config.refine.basis_concepts:
        out |= fit_basis(config, run_dir)
    if config.refine.steps:
        out |= train_refiners(config, run_dir, pools)
    out |= learn_starts(config, run_dir, pools)
    out["weights"] = sum(p.numel() for p in load_generator(run_dir).model.parameters())
    return out


def train_loop(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    quiet_worker()
    _Loop(settings).run()


class _Loop:
    """One worker's training: both phases, from the last checkpoint on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import ray.train
        from ray.train import get_context
        from ray.train.torch import get_device

        self.cached, self.run_dir = settings["cached"], settings["run_dir"]
        self.config = config_tree.from_dict(settings["member"])
        self.threads = training_threads(self.config, settings["workers"], get_device())
        self.world, self.rank = get_context().get_world_size(), get_context().get_world_rank()
        self.shard = ray.train.get_dataset_shard("train")
        self.texts, self.wordings = load_text(self.run_dir), wordings_of(self.run_dir)
        self.training = self._training()
        self.recipe = self.training.recipe
        self.before_images = self._resumed()
        self.images, g = None, self.config.generator
        if self.recipe.image_steps:
            self.images = ImagePairs(
                self.config,
                self.run_dir,
                settings["pools"],
                self.texts,
                self.wordings,
                self.rank,
                self.world,
                Draws(self.recipe.image_steps, g.image_concepts, g.image_batch),
            )
        if self.rank == 0:
            heartbeat.tell(self.run_dir, "generator")
        self.progress = Progress("generator", self.recipe.total, "steps", self.training.done)
        self.recent = RecentMeans()
        self.told = None
        if self.rank == 0:
            what = settings["name"]
            self.told = tracker(self.config, self.run_dir, what, self.training.done)

    def _training(self) -> GeneratorTraining:
        from ray.train.torch import get_device

        config, device, several = self.config, get_device(), self.world > 1
        layout, normalisation = load_layout(self.run_dir)
        dim = self.texts.dim
        use(config.precision, device)
        compiling.use(config.cluster.compile, device)
        torch.manual_seed(config.seed)
        model = build(generator_config(config, layout.n_blocks, dim)).to(device)
        recipe = generator_recipe(config.generator, config.adapt.t)
        translator, critic = load_base(config, self.run_dir) if recipe.image_steps else (None, None)
        if translator is not None and critic is not None:
            translator, critic = translator.to(device), critic.to(device)
        judged = several and recipe.image_gan and critic is not None
        return GeneratorTraining(
            model,
            layout,
            normalisation.to(device),
            recipe,
            config.seed,
            translator,
            data_parallel(model) if several else None,
            self.rank,
            critic,
            data_parallel(critic) if judged and critic is not None else None,
        )

    def _resumed(self) -> bytes:
        """Take up the last checkpoint; the weights before the image loss, if they are in it."""
        import ray.train

        saved = ray.train.get_checkpoint()
        if not saved:
            return b""
        with saved.as_directory() as folder:
            self.training.load_state(Path(folder, "training.safetensors").read_bytes())
            kept = Path(folder, BEFORE_IMAGES)
            return kept.read_bytes() if kept.exists() else b""

    def run(self) -> None:
        training, recipe, g, seed = (
            self.training,
            self.recipe,
            self.config.generator,
            self.config.seed,
        )
        if training.done < recipe.steps:
            for batch in self._batches(recipe.steps, g.batch, training.done, seed):
                self._advance(batch, on_images=False)
        if training.done < recipe.total:
            start = training.done - recipe.steps
            for batch in self._batches(recipe.image_steps, g.image_concepts, start, seed + 1):
                self._advance(batch, on_images=True)

    def _batches(self, phase_steps: int, size: int, start: int, seed: int) -> Iterator[Batch]:
        if self.cached:
            return cached_batches(self.shard, phase_steps, size, seed, start, self.rank, self.world)
        return streamed_batches(self.shard, phase_steps, size, seed, start)

    def _advance(self, batch: Batch, on_images: bool) -> None:
        training, recipe = self.training, self.recipe
        rng = random.Random(f"{self.config.seed}-{training.done}-{self.rank}")
        # a paraphrase shares its parent's adapter: any wording may stand for the concept
        text = text_batch([self.texts[rng.choice(self.wordings[i])] for i in batch.concept_ids])
        pictures = None
        if on_images and self.images:
            pictures = self.images.read(training.done - recipe.steps, rng)
        with self.threads.step():
            losses = training.step(batch.blocks, text, pictures)
        recent = self.recent
        recent.add(losses)
        if training.done == recipe.steps and recipe.image_steps:
            self.before_images = to_files(training.model, training.ema, {})[EMA_FILE]
            self.recent = RecentMeans()  # a resumed run would not have those of the other phase
        if self.rank == 0:
            self.progress.add(note=recent)
        if self.told:
            self.told.step(training.done, losses | {"steps a second": self.progress.rate()})
            if training.done == recipe.steps:
                self.told.flush()
        every = self.config.generator.checkpoint_every
        if not training.done % every or training.done == recipe.total:
            metrics = {"step": training.done, "workers": self.world, **recent.read()}
            report(self.run_dir, "generator", metrics, self._files() if self.rank == 0 else None)
            if self.told and pictures is not None:
                name = "source, made, true"
                self.told.picture(training.done, name, lambda: self._seen(pictures))
        if self.told and training.done == recipe.total:
            self.told.close()

    @torch.no_grad()
    def _seen(self, images: ImageBatch) -> np.ndarray:
        """uint8 [H, W, 3]: the first picture of each of eight concepts: source, made, true."""
        text = TextBatch(*(v[:8] for v in images.text))
        few = ImageBatch(images.source[:8, :1], images.edited[:8, :1], text)
        training, shared = self.training, self.training.forward
        training.forward = training.model  # the shared one would wait for the other workers
        try:
            with torch.random.fork_rng():
                made = training.pictures(few, torch.Generator().manual_seed(0)).cpu()
        finally:
            training.forward = shared
        rows = [
            torch.cat(list(row.flatten(0, 1)), dim=2)
            for row in (to_unit(few.source), made, to_unit(few.edited))
        ]
        return to_uint8(torch.cat(rows, dim=1)).permute(1, 2, 0).numpy()

    def _files(self) -> dict[str, bytes]:
        """A checkpoint, from which training goes on."""
        about = {
            "step": self.training.done,
            "t": self.config.adapt.t,
            "text_encoder": self.config.text_encoder,
        }
        files = to_files(self.training.model, self.training.ema, about)
        files["training.safetensors"] = self.training.state()
        return files | ({BEFORE_IMAGES: self.before_images} if self.before_images else {})
