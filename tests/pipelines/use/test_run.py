"""A finished run in Python: its laws, its files, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save

from modeling.targets.adapter_training import ConceptData
from modeling.targets.lora import AdapterError
from pipelines import Run
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts
from pipelines.stages.finetuning import Adapting
from pipelines.use.adapter_names import OtherModelError, UnknownAdapterError
from pipelines.use.finetune_request import FinetuneError
from pipelines.use.strength import StrengthError
from pipelines.use.wording import WordingError

TEXT = "indigo hair"


@pytest.fixture(scope="module")
def used(run: RunDir) -> Run:
    return Run(run.uri)


@pytest.fixture(scope="module")
def pictures(used: Run) -> np.ndarray:
    shape = (12, used.size, used.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_equal_texts_and_seeds_give_equal_weights(used: Run) -> None:
    one, again, other = used.predict(TEXT), used.predict(f" {TEXT} "), used.predict(TEXT, seed=1)
    assert one.text == again.text == TEXT and one.name == again.name != other.name
    assert one.files() == again.files() != other.files()
    assert any((one.weights[k] != other.weights[k]).any() for k in one.weights)


def test_an_adapter_is_a_peft_folder_and_comes_back(
    used: Run, run: RunDir, pictures: np.ndarray, tmp_path: Path
) -> None:
    adapter = used.predict(TEXT)
    folder = adapter.save(tmp_path / "some" / "folder")
    back = used.load(folder)
    assert back.files() == adapter.files() and back.text == TEXT
    made = used.translate(pictures, adapter)
    assert len(made) == len(pictures) and made[0].shape == pictures[0].shape
    for theirs in (back, used.load(adapter.name)):
        np.testing.assert_array_equal(used.translate(pictures, theirs), made)
    network = load_base(used.config, run)[0].network
    PeftModel.from_pretrained(network, folder)


def test_pictures_of_any_size_come_back_in_their_own(used: Run, pictures: np.ndarray) -> None:
    adapter, square = used.predict(TEXT), pictures[0]
    wide = np.random.default_rng(1).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    together = used.translate([square, wide, square], adapter)
    assert [p.shape for p in together] == [square.shape, wide.shape, square.shape]
    (alone,) = used.translate([wide], adapter)
    np.testing.assert_array_equal(together[1], alone)
    np.testing.assert_array_equal(together[0], together[2])
    assert (alone != wide).any()


def test_strength(used: Run, pictures: np.ndarray) -> None:
    adapter = used.predict(TEXT)
    one = used.translate(pictures, adapter)
    np.testing.assert_array_equal(used.translate(pictures, adapter, 0), pictures)
    np.testing.assert_array_equal(used.translate(pictures, adapter, 1), one)
    half = np.stack(used.translate(pictures, adapter, 0.5)).astype(int)
    assert np.abs(half - (pictures.astype(int) + np.stack(one)) / 2).max() <= 1
    for wrong in (-0.1, 1.6, float("nan")):
        with pytest.raises(StrengthError, match=r"from 0 to 1\.5"):
            used.translate(pictures, adapter, wrong)


def test_changes_of_several_adapters_are_added(used: Run, pictures: np.ndarray) -> None:
    one, two = used.predict(TEXT), used.predict("sepia")
    alone = [np.stack(used.translate(pictures, a)).astype(int) for a in (one, two)]
    both = np.stack(used.translate(pictures, [(one, 1.0), (two, 0.5)])).astype(int)
    expected = pictures + (alone[0] - pictures) + 0.5 * (alone[1] - pictures)
    assert np.abs(both - expected.clip(0, 255)).max() <= 2  # each was rounded
    np.testing.assert_array_equal(used.translate(pictures, [(one, 1.0)]), alone[0])
    np.testing.assert_array_equal(used.translate(pictures, [(one, 1.0), (two, 0.0)]), alone[0])
    for wrong in ([], [(one, 1.0)] * 5):
        with pytest.raises(StrengthError, match="from 1 to 4 go together"):
            used.translate(pictures, wrong)


def test_a_fine_tune_trains_and_is_kept(used: Run, pictures: np.ndarray, tmp_path: Path) -> None:
    pairs = [(p, 255 - p) for p in pictures]
    seen: list[int] = []
    tuned = used.finetune(TEXT, pairs, steps=5, on_step=seen.append)
    assert seen[-1] == 5 and len(tuned.outcome.losses) == 5
    assert tuned.outcome.scored_on == "2 other pictures"
    start = used.predict(TEXT)
    assert any((tuned.weights[k] != start.weights[k]).any() for k in start.weights)
    back = used.load(tuned.save(tmp_path / "tuned"))
    np.testing.assert_array_equal(used.translate(pictures, back), used.translate(pictures, tuned))
    # and goes on from where it was left
    more = used.finetune(TEXT, pairs, steps=2, start=back)
    assert any((tuned.weights[k] != more.weights[k]).any() for k in start.weights)


def test_stage_adapt_predicts_and_trains_the_same(
    used: Run, run: RunDir, pictures: np.ndarray
) -> None:
    """The fourth way; service and commands: tests/pipelines/serve/test_service.py."""
    stage = Adapting(to_dict(used.config), run)
    concept = next(c for c in load_concepts(run) if c.split == "test")
    seed, text = used.config.seed, stage.texts[concept.concept_id]
    (start,) = stage.predict([concept.concept_id])
    mine = used.predict(concept.text, seed=seed)
    assert start.keys() == mine.weights.keys()
    assert all(torch.equal(start[k], v) for k, v in mine.weights.items())
    channels_first = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    source, edited = torch.from_numpy(channels_first), torch.from_numpy(255 - channels_first)
    data = ConceptData(concept.concept_id, source, edited, text.tokens)
    (trained,) = stage.finetune([data], [start], [text], used.config.adapt, seed)
    pairs = [(p, 255 - p) for p in pictures]
    tuned = used.finetune(concept.text, pairs, seed=seed, test=0)
    assert trained.adapter is not None
    assert all(torch.equal(trained.adapter[k], v) for k, v in tuned.weights.items())
    assert any((tuned.weights[k] != v).any() for k, v in start.items())


def test_what_it_has_learned_from_and_what_is_near(used: Run) -> None:
    texts = used.concepts()
    near = used.nearest(texts[0], 2)
    assert near[0].text == texts[0] and near[0].similarity == pytest.approx(1)
    assert len(near) == 2


def test_what_it_refuses(used: Run, own_run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(WordingError, match="says nothing"):
        used.predict(" \u200b")
    with pytest.raises(UnknownAdapterError):
        used.load("nothing of this name")
    with pytest.raises(UnknownAdapterError):
        used.load("f-0123456789abcdef")
    with pytest.raises(FinetuneError, match="0 pairs"):
        used.finetune(TEXT, [])
    folder = used.predict(TEXT).save(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises((AdapterError, OtherModelError)):
        used.load(folder)
    weights.unlink()
    with pytest.raises(ArtifactError, match="adapter_model"):
        used.load(folder)
    with pytest.raises(StageError, match="Run needs stage base"):
        Run(tmp_path / "no run")
    # another base: its numbers would mean other pictures
    weights.write_bytes(whole)
    base = load_base(used.config, own_run)[0].network
    state = {k: (v + 0.01).contiguous() for k, v in base.state_dict().items()}

    other = RunDir(own_run.uri)
    other.write("base/translator.safetensors", save(state))
    marker = other.read_json("stages/base.json")
    marker["files"]["base/translator.safetensors"] = other.checksum("base/translator.safetensors")
    other.write_json("stages/base.json", marker)
    with pytest.raises(OtherModelError):
        Run(other.uri).load(folder)


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    code = "import sys, pipelines; assert not {'torch', 'ray'} & set(sys.modules)"
    code += "; from pipelines import Run; assert 'torch' in sys.modules"
    code += "; assert 'ray' not in sys.modules, 'ray'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_it_has_all_cores(used: Run) -> None:
    before = torch.get_num_threads()
    used.predict(TEXT)
    assert torch.get_num_threads() == before
