"""A finished run without its making: random networks, and files and markers as the stages leave."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from modeling.concepts.planning import plan_concepts
from modeling.concepts.table import to_table
from modeling.editors.registry import supports
from modeling.targets.translator import Translator
from modeling.text import TextEncoder
from modeling.weights.checkpoint import to_files
from modeling.weights.codec import BlockLayout
from modeling.weights.ema import EMA
from modeling.weights.gradient_basis import GradientSums
from modeling.weights.normalisation import NormalisationSums
from modeling.weights.refiner import CONFIG_FILE, Refiner
from modeling.weights.refiner import to_files as refiner_files
from modeling.weights.weight_generator import build
from pipelines.config import tree as config_tree
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime import stage_graph as stages
from pipelines.runtime.inventory import inventory
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.text_table import writing_text
from pipelines.stages import base
from pipelines.stages.base import discriminator_config, load_base, translator_config
from pipelines.stages.gradients import BASIS_FILE
from pipelines.stages.refiners import folder_of, refiner_config
from pipelines.stages.weight_generators import generator_config
from pipelines.stages.writing import embed

TEXT_DIM = 384
# Not the preset's, so that a service that took the preset's configuration would be noticed
TRAINED = [
    "preset=tiny",
    "generator.t_min=100",
    "adapt.t=900",
    "lora.rank=2",
    "lora.ranks={head: 1}",
    "adapt.basis_lr=0.05",  # its deviations are those of random adapters, far from any trained one
]


def make_run(folder: Path, seed: int = 0) -> RunDir:
    """A finished run with random networks, made without Ray or training."""
    run = RunDir(str(folder))
    config = load_config([*TRAINED, f"run_dir={folder}"])
    torch.manual_seed(seed)
    network = Translator(translator_config(config, TEXT_DIM)).freeze_statistics()
    torch.nn.init.normal_(network.head.weight, std=0.02)  # zero at the start: it would edit nothing
    discriminator = base.PatchDiscriminator(discriminator_config(config))
    about = {
        "translator": network.config.to_dict(),
        "discriminator": vars(discriminator_config(config)),
    }
    run.write("base/translator.safetensors", save(dict(network.state_dict())))
    run.write("base/discriminator.safetensors", save(dict(discriminator.state_dict())))
    run.write_json("base/base.json", about)

    translator, _ = load_base(config, run)
    w = config.weights
    layout = BlockLayout.build(translator.shapes, translator.groups, w.grouping, w.block_size)
    sums = NormalisationSums.empty(layout)
    start = translator.zero_adapter()
    for _ in range(4):
        adapter = {k: v + 0.2 * torch.randn_like(v) for k, v in start.items()}
        sums.add(layout.to_blocks(adapter)[None])
    run.write("weights/layout.json", layout.to_json().encode())
    run.write("weights/normalisation.safetensors", sums.finish(layout, "element").to_bytes())

    model = build(generator_config(config, layout.n_blocks, TEXT_DIM))
    with torch.no_grad():  # its last layer starts at zero: all texts would give one adapter
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    for name, data in to_files(model, EMA(model)).items():
        run.write(f"generator/{name}", data)

    gradients = GradientSums.empty(layout)
    gradients.add(torch.randn(8, layout.n_blocks, layout.block_size))
    run.write(BASIS_FILE, gradients.finish().to_bytes())
    refiner = Refiner(refiner_config(config, layout, TEXT_DIM), gradients.finish())
    run.write_files(folder_of(0), refiner_files(refiner.state_dict(), refiner.config), CONFIG_FILE)

    concepts = plan_concepts(config.concepts, config.seed, supports("avatar"))
    run.write_table("concepts.parquet", to_table(concepts))
    with writing_text(run) as table:
        embed(TextEncoder(), table, concepts)

    run.write("config.yaml", config_tree.to_yaml(config).encode())
    for stage in stages.STAGES[:6]:
        marker = {"config": stages.depends_on(stage, config), "inputs": {}}
        run.write_json(f"stages/{stage.name}.json", {**marker, "files": inventory(run, stage)})
    return run


def told(run: RunDir, *words: str) -> Config:
    return load_config([f"run_dir={run.uri}", *words])
