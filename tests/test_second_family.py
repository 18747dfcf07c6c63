"""A run of all stages whose target is not the default family, on a real local Ray."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from modeling.avatars import portrait, render
from modeling.target_families import from_description, frozen_target
from pipelines.adapt import heldout, load_timings, step_folder
from pipelines.adapter_ids import Ask
from pipelines.artifacts import RunDir
from pipelines.base import load_base
from pipelines.config import ConfigError, load_config
from pipelines.gans import load_adapter
from pipelines.plan_work import Shapes
from pipelines.serving import Loaded, TextPart, TranslatorPart, WeightPart
from pipelines.stages import STAGES
from pipelines.weights import load_layout
from tests.driver import Driver

WORDS = ["preset=tiny", "translator.family=resnet", "translator.blocks=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("resnet")
    words = [*WORDS, "base.steps=30", "gans.steps=20", f"run_dir={folder}/run"]
    with Driver(["run", *words], folder) as driver:
        driver.wait()
    return RunDir(f"{folder}/run")


def test_every_stage_ran_with_the_family(run: RunDir) -> None:
    assert all(run.exists(f"stages/{stage.name}.json") for stage in STAGES)
    about = run.read_json("base/base.json")["translator"]
    assert about == {
        "family": "resnet",
        **{"width": 8, "blocks": 2, "downs": 1, "dropout": 0.0, "transposed": False},
        **{"edge_kernel": 3, "global_skip": True},
    }


def test_its_adapters_load_in_peft_and_beat_the_base(run: RunDir) -> None:
    translator, _ = load_base(load_config(WORDS), run)
    ids = sorted({f.split("/")[1] for f in run.files("adapters")})
    assert len(ids) == 15
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    network = frozen_target(from_description(run.read_json("base/base.json")["translator"]))
    network.load_state_dict(load_file(f"{run.uri}/base/translator.safetensors"))
    tokens, mask = torch.zeros(1, 384), torch.ones(1, dtype=torch.bool)
    folder = f"adapters/{ids[0]}"
    adapter = load_adapter(run, folder)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(network, f"{run.uri}/{folder}").eval()(
            x, tokens[None], mask[None]
        )
        torch.testing.assert_close(
            theirs, translator(adapter, x, tokens, mask), atol=1e-4, rtol=1e-4
        )
    metrics = [run.read_json(f"adapters/{i}/metrics.json") for i in ids]
    assert np.mean([m["l1"] < m["zero"] for m in metrics]) > 0.7


def test_the_layout_is_what_the_plan_expects(run: RunDir) -> None:
    layout, _ = load_layout(run)
    expected = Shapes(load_config(WORDS)).layout
    assert layout.digest() == expected.digest()


def test_held_out_concepts_were_adapted_and_scored(run: RunDir) -> None:
    ids = heldout(run, "test")
    assert len(ids) == 3
    for concept_id in ids:
        first, last = (load_adapter(run, step_folder(concept_id, s)) for s in (0, 4))
        assert first.keys() == last.keys() and any((first[k] != last[k]).any() for k in first)
        assert load_timings(run, concept_id)["finetune"] > 0
    rows = pq.read_table(f"{run.uri}/evaluation/rows.parquet").to_pylist()
    methods = {"prediction", "identity", "zero LoRA", "mean adapter", "nearest text", "ridge"}
    assert {r["method"] for r in rows} == methods | {"shuffled prompt", "ground-truth adapter"}
    assert {r["concept_id"] for r in rows} == set(ids)
    assert all(0 < r["l1"] < 2 for r in rows)


def test_it_serves(run: RunDir) -> None:
    config = load_config([*WORDS, f"run_dir={run.uri}"])
    weights, translator = WeightPart(config, run), TranslatorPart(config, run)
    ask = Ask("indigo hair, on a coral background", 0, config.adapt.t, 1)
    (loaded,) = weights.predict([(ask, TextPart(config, run).encode([ask.concept])[0])])
    assert isinstance(loaded, Loaded)
    picture = render(portrait(3), 32)
    (made,) = translator.translate([(picture, translator.merge(loaded))])
    assert made.shape == picture.shape and made.dtype == np.uint8
    assert not np.array_equal(made, picture)


def test_shapes_that_cannot_be_are_refused() -> None:
    resnet = WORDS[:2]
    for words, message in (
        (["preset=tiny", "translator.family=vit"], "translator.family=vit: must be one of e2gan"),
        ([*resnet, "translator.blocks=0"], "translator.blocks=0: must be at least 1"),
        ([*resnet, "translator.edge_kernel=4"], "translator.edge_kernel must be odd, not 4"),
        ([*resnet, "translator.downs=4"], "images.size=32: must be a multiple of 16, at least 64"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(words)
        assert message in str(caught.value)
    # heads are e2gan's, whose check does not bind another family
    load_config([*WORDS, "translator.heads=3"])
