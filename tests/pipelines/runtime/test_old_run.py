"""A run directory made before the code stood in rooms: verified, finished, predicted from, served.

run_318e9d6.tar.xz holds all stages but the report, made by commit 318e9d6 with WORDS.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.targets.lora import WEIGHTS_FILE, from_bytes
from pipelines.__main__ import main
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import made_with
from pipelines.runtime.stage_table import STAGES
from pipelines.serve.command import check_run
from pipelines.stages.adapt import heldout, step_folder
from pipelines.stages.prediction import Predictor
from pipelines.use.saved_run import saved_config

ARCHIVE = Path(__file__).parent / "run_318e9d6.tar.xz"
WORDS = [
    "preset=tiny",
    *("images.count=10", "images.size=16", "translator.width=4", "discriminator.width=2"),
    *("generator.width=8", "generator.depth=1", "generator.heads=1"),
    *("concepts.families=[hair, background]", "concepts.atoms_per_family=3"),
    *("concepts.test_atoms=1", "concepts.paired_families=[]", "concepts.paired_combinations=0"),
    *("concepts.paraphrases=0", "concepts.train_combinations=2", "concepts.test_combinations=1"),
    *("base.steps=4", "base.concepts=2", "base.checkpoint_every=4", "gans.steps=4"),
    *("adapt.steps=2", "adapt.keep=[1]", "evaluate.images=10", "report.concepts=1"),
    # the preset's since then
    *("refine.steps=0", "refine.basis_concepts=0", "adapt.learned_steps=0", "adapt.basis=false"),
]
MADE = [stage.name for stage in STAGES if stage.name != "report"]


@pytest.fixture
def old(tmp_path: Path) -> RunDir:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return RunDir(str(tmp_path / "run"))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to do for which Ray would be needed."""

    def started(config: Config, run: RunDir) -> Any:
        raise AssertionError("Ray has been started")

    monkeypatch.setattr("pipelines.runtime.session.ray_session", started)


def test_its_stages_are_finished_and_its_report_is_made(
    old: RunDir, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: old.read(f"stages/{name}.json") for name in MADE}
    assert main(["run", *WORDS, f"run_dir={old.uri}"]) == 0
    told = capsys.readouterr().err
    for name in MADE:
        assert f"{name}: finished earlier" in told
        assert old.read(f"stages/{name}.json") == before[name]
    page = old.read("report/index.html").decode()
    assert all(name in page for name in ("zero LoRA", "nearest text", "prediction"))
    assert made_with(old).gans == load_config(WORDS).gans


def test_another_value_of_a_key_is_still_refused(
    old: RunDir, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gans", *WORDS, "gans.lr=0.5", f"run_dir={old.uri}"]) == 2
    assert "gans.lr=0.005 then, gans.lr=0.5 now" in capsys.readouterr().err


def test_its_weight_generator_predicts_what_it_predicted_then(old: RunDir) -> None:
    """To the rounding of another processor or kernel: weights are of size 0.01 to 1."""
    predictor = Predictor(to_dict(made_with(old)), old)
    for concept in heldout(old, "test"):
        (adapter,) = predictor.predict([concept])
        path = f"{step_folder(concept, 0)}/{WEIGHTS_FILE}"
        then = from_bytes(old.read(path), path)
        assert adapter.keys() == then.keys()
        for key, value in adapter.items():
            torch.testing.assert_close(value, then[key], rtol=1e-3, atol=1e-4)


def test_it_can_be_served(old: RunDir) -> None:
    check_run(saved_config(old, load_config([f"run_dir={old.uri}"])), old)
