"""`workstation`, `node` and `paper-lean` from pictures to report, on CPU cores.

With tiny models and counts of a thousandth: what is left as it is are the switches, whose
combination is the preset.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling.editors.sources import load_source
from pipelines.__main__ import main
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import STAGES
from tests import tiny_diffusion
from tests.chat_server import chat_server
from tests.tiny_clip import save_clip

SHRUNK = [
    "images.size=32",
    "images.count=20",
    "images.paired=4",
    "editing.size=0",
    "editing.dtype=float32",
    "editing.least.change=0.0001",
    "editing.least.direction=-1",  # an untrained model's edits go anywhere
    "translator.width=4",
    "translator.downs=1",
    "translator.edge_kernel=3",
    "discriminator.width=4",
    "discriminator.layers=1",
    "lora.rank=1",
    "lora.ranks={}",
    "base.concepts=3",
    "base.steps=20",
    "base.batch=4",
    "base.workers=1",
    "gans.steps=10",
    "gans.batch=4",
    "weights.block_size=64",
    "generator.width=16",
    "generator.depth=1",
    "generator.heads=2",
    "generator.steps=12",
    "generator.batch=4",
    "generator.image_steps=4",
    "generator.image_concepts=2",
    "generator.image_batch=2",
    "generator.workers=1",
    "adapt.steps=6",
    "adapt.batch=4",
    "adapt.coreset=4",
    "adapt.keep=[2]",
    "evaluate.features=efficientnet",  # Inception's weights cannot be had offline
    "evaluate.kid=false",
    "evaluate.images=2",
    "cluster.nodes=1",
    "cluster.gpus_per_node=0",
    "cluster.gpus_per_actor=0",
    "cluster.cpus_per_actor=1",
    "cluster.gpu_training=false",
]
REFINED = [
    "refine.steps=2",
    "refine.concepts=2",
    "refine.pairs=3",
    "refine.scored=1",
    "refine.basis_concepts=2",
]
WRITTEN = [
    "llm.counts={art: 6, characteristic: 8, facial: 0}",
    "llm.test={art: 1, characteristic: 1, facial: 0}",
    "llm.paraphrases={art: 2, characteristic: 2, facial: 0}",
    "llm.writer.model=fake",
    "concepts.train_combinations=3",
    "concepts.paired_combinations=4",
    "concepts.val_combinations=1",
    "concepts.test_combinations=1",
]
OWN = {
    "workstation": [
        "concepts.families=[hair, skin, background, duotone]",
        "concepts.heldout_families=[stencil]",
        "concepts.validation_families=[chalk]",
        "concepts.atoms_per_family=4",
        "concepts.combine=[[hair, background]]",
        "concepts.train_combinations=2",
        "concepts.paired_combinations=3",
        *(f"concepts.{key}=1" for key in ("val_atoms", "val_combinations", "val_families")),
        *(f"concepts.{key}=1" for key in ("test_atoms", "test_combinations", "test_families")),
        "concepts.paraphrases=1",
        *REFINED,
    ],
    "node": [*WRITTEN, "llm.val={art: 1, characteristic: 1, facial: 0}", *REFINED],
    "paper-lean": [*WRITTEN, "generator.channels=[16, 32]"],
}


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Portraits, models and an endpoint, as a user has them."""
    folder = tmp_path_factory.mktemp("brought")
    (folder / "portraits").mkdir()
    for i in range(20):
        picture = load_source(f"avatar-{i:07d}", "avatars", 64).image
        Image.fromarray(np.asarray(picture)).save(folder / "portraits" / f"{i}.png")
    clip = save_clip(folder)
    with chat_server() as server:
        yield [
            f"images.path={folder / 'portraits'}",
            f"editing.models.sd_turbo={tiny_diffusion.stable_diffusion(folder)}",
            f"editing.clip={clip}",
            f"llm.writer.base_url={server.url}",
            f"text_encoder={clip}",
        ]


@pytest.mark.parametrize("preset", OWN)
def test_the_preset_runs_from_pictures_to_report(
    preset: str, brought: list[str], tmp_path: Path
) -> None:
    words = [w for w in brought if preset != "workstation" or not w.startswith(("llm", "text_"))]
    words = [f"preset={preset}", f"run_dir={tmp_path / 'run'}", *SHRUNK, *OWN[preset], *words]
    assert main(["run", *words]) == 0
    run = RunDir(str(tmp_path / "run"))
    assert all(run.exists(f"stages/{stage.name}.json") for stage in STAGES)
    about = run.read_json("stages/pairs.json")["summary"]
    assert about["concepts"] > 5 and about["dropped"] == 0
    assert run.read_json("stages/generator.json")["summary"]["image"] > 0
    assert run.exists("report/index.html")
