"""Of stage `generator`: the refiners, one for each weight generator of the run's own section.

Trained with Ray Train on the pairs that the image loss uses (modeling/weights/learned_steps.py),
from the predictions of its weight generator, beside which it lies.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import torch

from modeling.losses import RecentMeans
from modeling.precision import use
from modeling.settings import taken
from modeling.weights.codec import BlockLayout
from modeling.weights.interface import GeneratorError, TextBatch
from modeling.weights.learned_steps import RefinerTraining
from modeling.weights.recipe import refiner_recipe
from modeling.weights.refiner import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Refiner,
    RefinerConfig,
    from_files,
    to_files,
)
from modeling.weights.weight_generator import predict_blocks
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime import heartbeat
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import quiet_worker, training_threads
from pipelines.runtime.training import data_parallel, fit, report
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_text
from pipelines.stages.gradients import image_loss, load_basis
from pipelines.stages.image_pairs import Draws, ImagePairs, wordings_of
from pipelines.stages.weight_generators import Member, load_generator, members
from pipelines.stages.weights import load_layout

STATE_FILE = "training.safetensors"


def folder_of(repeat: int) -> str:
    """Where the refiner of a seed lies: beside its weight generator."""
    return f"{Member('generator', repeat).folder}/refiner"


def train_refiners(config: Config, run_dir: RunDir, pools: list[list[str]]) -> dict[str, Any]:
    """Train those that are not there; what the stage says of them."""
    out: dict[str, Any] = {}
    for member in [m for m in members(config) if m.section == "generator"]:
        folder = folder_of(member.repeat)
        if all(run_dir.exists(f"{folder}/{name}") for name in (CONFIG_FILE, WEIGHTS_FILE)):
            continue
        own, r = member.of(config), config.refine
        log(f"generator: refiner, seed {own.seed}, {r.steps} steps of {r.iterations} learned ones")
        metrics, made = fit(
            config,
            run_dir,
            "generator",
            train_loop,
            {"member": config_tree.to_dict(own), "pools": pools, "folder": member.folder},
            {},
            workers=r.workers,
            split_data=False,
            member=f"refiner-{member.repeat}",
        )
        made = {name: made[name] for name in (WEIGHTS_FILE, CONFIG_FILE)}
        run_dir.write_files(folder, made, last=CONFIG_FILE)
        kept = {k: metrics.get(k) for k in ("start", f"after {r.iterations}", "seconds")}
        out["refiner" if not member.repeat else f"refiner-{member.repeat}"] = kept
    return out


def refiner_config(config: Config, layout: BlockLayout, text_dim: int) -> RefinerConfig:
    return taken(
        RefinerConfig,
        config.refine,
        block_size=layout.block_size,
        n_blocks=layout.n_blocks,
        text_dim=text_dim,
    )


def load_refiner(run_dir: RunDir, repeat: int = 0) -> Refiner:
    """A trained refiner; ArtifactError if it is damaged or not there."""
    folder, basis = folder_of(repeat), load_basis(run_dir, load_layout(run_dir)[0])
    files = {n: run_dir.read(f"{folder}/{n}") for n in (CONFIG_FILE, WEIGHTS_FILE)}
    try:
        return from_files(files, basis)
    except GeneratorError as error:
        raise ArtifactError(f"{run_dir.url(folder)}: {error}") from error


def train_loop(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    quiet_worker()
    _Loop(settings).run()


class _Loop:
    """One worker's training, from the last checkpoint on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        self.run_dir = settings["run_dir"]
        self.config = config_tree.from_dict(settings["member"])
        self.world, self.rank = get_context().get_world_size(), get_context().get_world_rank()
        self.device = get_device()
        use(self.config.precision, self.device)
        self.threads = training_threads(self.config, settings["workers"], self.device)
        texts = load_text(self.run_dir)
        self.generator = load_generator(self.run_dir, settings["folder"]).model.to(self.device)
        self.schedule = self.generator.config.noise_schedule()
        self.training = self._training(texts.dim)
        r = self.config.refine
        self.pairs = ImagePairs(
            self.config,
            self.run_dir,
            settings["pools"],
            texts,
            wordings_of(self.run_dir),
            self.rank,
            self.world,
            Draws(r.steps, r.concepts, r.pairs),
        )
        self.seconds = self._resumed()
        if self.rank == 0:
            heartbeat.tell(self.run_dir, "generator")
        self.progress = Progress("generator", r.steps, "steps", self.training.done)

    def _training(self, text_dim: int) -> RefinerTraining:
        c = self.config
        layout, normalisation = load_layout(self.run_dir)
        translator, critic = load_base(c, self.run_dir)
        loss = image_loss(
            c,
            translator.to(self.device),
            critic.to(self.device).requires_grad_(False),
            layout,
            normalisation.to(self.device),
        )
        torch.manual_seed(c.seed)
        basis = load_basis(self.run_dir, layout)
        model = Refiner(refiner_config(c, layout, text_dim), basis).to(self.device)
        wrapped = data_parallel(model) if self.world > 1 else None
        return RefinerTraining(model, loss, refiner_recipe(c.refine), c.seed, wrapped, self.rank)

    def _resumed(self) -> float:
        """Take up the last checkpoint; the seconds that were spent before it."""
        import ray.train

        saved = ray.train.get_checkpoint()
        if not saved:
            return 0.0
        with saved.as_directory() as folder:
            self.training.load_state(Path(folder, STATE_FILE).read_bytes())
            return float(Path(folder, "seconds").read_text())

    def run(self) -> None:
        training, r = self.training, self.config.refine
        recent = RecentMeans()
        while training.done < r.steps:
            begun = time.perf_counter()
            rng = random.Random(f"{self.config.seed}-refiner-{training.done}-{self.rank}")
            batch = self.pairs.read(training.done, rng)
            with self.threads.step():
                recent.add(training.step(self._predicted(batch.text, rng), batch))
            self.seconds += time.perf_counter() - begun
            if self.rank == 0:
                self.progress.add(note=recent)
            if not training.done % r.checkpoint_every or training.done == r.steps:
                metrics = {"step": training.done, "seconds": self.seconds, **recent.read()}
                report(
                    self.run_dir, "generator", metrics, self._files() if self.rank == 0 else None
                )

    def _predicted(self, text: TextBatch, rng: random.Random) -> torch.Tensor:
        """From pure noise, as it will be."""
        shape = self.generator.config
        noise = torch.randn(
            (text.tokens.shape[0], shape.n_blocks, shape.block_size),
            generator=torch.Generator().manual_seed(rng.randrange(2**31)),
        )
        return predict_blocks(
            self.generator,
            self.schedule,
            TextBatch(*(v.to(self.device) for v in text)),
            self.config.adapt.t,
            noise=noise.to(self.device),
            mask_w=self.training.mask,
        )

    def _files(self) -> dict[str, bytes]:
        """A checkpoint, from which training goes on."""
        files = to_files(self.training.ema.average, self.training.model.config)
        return files | {STATE_FILE: self.training.state(), "seconds": str(self.seconds).encode()}
