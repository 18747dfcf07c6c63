"""The weight generator's training without Ray: one process, one thread."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import torch

from modeling.targets.adapter_training import batch_order
from modeling.weights.checkpoint import to_files
from modeling.weights.generator_training import GeneratorTraining
from modeling.weights.recipe import generator_recipe
from modeling.weights.weight_generator import build
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.tensors import to_numpy
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_text
from pipelines.stages.image_pairs import Draws, ImagePairs, wordings_of
from pipelines.stages.weight_generators import FOLDER, generator_config, text_batch
from pipelines.stages.weights import block_files, load_layout

STATE = "economy"
SAVED_EVERY = 200


class SomePairs(ImagePairs):
    """Concepts of `few` have images.paired pairs, whatever the run has made."""

    def __init__(self, config: Config, run_dir: RunDir, few: set[str], *more: Any) -> None:
        super().__init__(config, run_dir, *more)
        every = self.pairs

        def pairs(concept_id: str) -> pa.Table:
            rows = every(concept_id)
            return rows.slice(0, config.images.paired) if concept_id in few else rows

        self.pairs: Any = pairs


class Training:
    """Both phases as the stage has them, on the concepts of these pools."""

    def __init__(
        self, config: Config, run_dir: RunDir, pools: list[list[str]], few: set[str]
    ) -> None:
        self.config, self.run_dir = config, run_dir
        self.texts, self.wordings = load_text(run_dir), wordings_of(run_dir)
        layout, normalisation = load_layout(run_dir)
        torch.manual_seed(config.seed)
        model = build(generator_config(config, layout.n_blocks, self.texts.dim))
        self.recipe = generator_recipe(config.generator, config.adapt.t)
        translator, _ = load_base(config, run_dir)
        self.training = GeneratorTraining(
            model, layout, normalisation, self.recipe, config.seed, translator
        )
        g = config.generator
        draws = Draws(self.recipe.image_steps, g.image_concepts, g.image_batch)
        self.images = SomePairs(config, run_dir, few, pools, self.texts, self.wordings, 0, 1, draws)
        tables = [run_dir.read_table(f) for f in block_files(run_dir)]
        table = pa.concat_tables(tables)
        train = [i for i, split in enumerate(table["split"].to_pylist()) if split == "train"]
        table = table.take(train)
        self.ids: list[str] = table["concept_id"].to_pylist()
        self.blocks = torch.from_numpy(to_numpy(table["blocks"]))
        self.order = batch_order(len(self.ids), self.recipe.steps, g.batch, config.seed)

    def step(self) -> None:
        training, done = self.training, self.training.done
        rng = random.Random(f"{self.config.seed}-{done}")
        if done < self.recipe.steps:
            index = self.order[done].tolist()
            said = [rng.choice(self.wordings[self.ids[i]]) for i in index]
            training.step(self.blocks[index], text_batch([self.texts[i] for i in said]))
            return
        pictures = self.images.read(done - self.recipe.steps, rng)
        training.step(self.blocks[:0], pictures.text, pictures)

    def run(self, name: str) -> None:
        """To the end, from the state kept under this name on; then the generator is the run's."""
        state = f"{STATE}/{name}.safetensors"
        if self.run_dir.exists(state):
            self.training.load_state(self.run_dir.read(state))
        while self.training.done < self.recipe.total:
            self.step()
            if not self.training.done % SAVED_EVERY or self.training.done == self.recipe.total:
                self.run_dir.write(state, self.training.state())
                print(f"{name}: {self.training.done} of {self.recipe.total}", flush=True)
        files = to_files(self.training.model, self.training.ema, {})
        self.run_dir.write_files(FOLDER, files, last="generator.json")
