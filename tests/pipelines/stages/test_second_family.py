"""A run whose target is not the default family, in an object store, killed once and continued.

On a real local Ray and a real S3 server (moto's) on loopback. What it made is then read from a copy
in a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from modeling.editors.avatars import portrait, render
from modeling.images import decode_image, encode_png
from modeling.targets.families import frozen_target
from modeling.targets.shapes import from_description
from pipelines import Run
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.plan.shapes import Shapes
from pipelines.runtime.inventory import inventory, unchanged
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import STAGES
from pipelines.stages.adapt import heldout, load_timings, step_folder
from pipelines.stages.base import load_base
from pipelines.stages.contenders import UNREFINED, ZERO_REFINED
from pipelines.stages.gans import load_adapter
from pipelines.stages.weights import load_layout
from pipelines.use.adapter_names import Ask
from pipelines.use.parts import Loaded, TextPart, TranslatorPart, WeightPart
from tests.driver import Driver
from tests.object_store import object_store

WORDS = ["preset=tiny", "translator.family=resnet", "translator.blocks=2"]
STEPS = ["base.steps=60", "gans.steps=20"]
BUCKET = "bucket"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URI of a bucket; its address and keys are in the environment, as for any S3 store."""
    import boto3

    with object_store():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def stored(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, str]:
    """The run in the bucket, and what the second command printed."""
    run = RunDir(f"{bucket}/runs/resnet")
    assert not run.local
    logs = tmp_path_factory.mktemp("stored")
    command = ["run", *WORDS, *STEPS, f"run_dir={run.uri}"]
    with Driver(command, logs) as driver:
        driver.wait_until(lambda: bool(run.files("train/base")))  # its first checkpoint
        driver.kill()
    with Driver(command, logs) as driver:
        return run, driver.wait()


@pytest.fixture(scope="module")
def run(stored: tuple[RunDir, str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A copy of it in a folder."""
    copy = RunDir(f"{tmp_path_factory.mktemp('resnet')}/run")
    for name in stored[0].files(""):
        copy.write(name, stored[0].read(name))
    return copy


def test_it_went_on_after_the_kill_and_nothing_is_missing(stored: tuple[RunDir, str]) -> None:
    run, printed = stored
    assert "base: continuing where it was stopped" in printed
    for stage in STAGES:
        recorded, there = run.read_json(f"stages/{stage.name}.json")["files"], inventory(run, stage)
        assert recorded.keys() == there.keys() != set()
        for name, record in recorded.items():  # what is said of contents is true of them
            assert unchanged(record, there[name]) and unchanged(record, run.checksum(name))
    assert run.files("errors") == []
    adapter = load_adapter(run, run.files("adapters")[0].rpartition("/")[0])
    load_base(load_config([*WORDS, f"run_dir={run.uri}"]), run)[0].check(adapter)


def test_what_a_store_refuses_is_one_line(bucket: str, tmp_path: Path) -> None:
    words = ["concepts", "preset=tiny", "run_dir=s3://no-such-bucket/run"]
    with Driver(words, tmp_path) as driver:
        assert driver.process.wait(120) == 1
        last = driver.output().strip().splitlines()[-1]
    assert last.startswith("denoised-weights: ") and "no-such-bucket" in last


def test_the_base_is_of_the_family(run: RunDir) -> None:
    about = run.read_json("base/base.json")["translator"]
    assert about == {
        "family": "resnet",
        **{"width": 8, "blocks": 2, "downs": 1, "dropout": 0.0, "transposed": False},
        **{"edge_kernel": 3, "global_skip": True},
    }


def test_its_adapters_load_in_peft_and_beat_the_base(run: RunDir) -> None:
    translator, _ = load_base(load_config(WORDS), run)
    translator.network.double()  # two orders of one sum: tests/rounding.py
    ids = sorted({f.split("/")[1] for f in run.files("adapters")})
    assert len(ids) == 15
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    network = frozen_target(from_description(run.read_json("base/base.json")["translator"]))
    network.load_state_dict(load_file(f"{run.uri}/base/translator.safetensors"))
    network.double()
    tokens, mask = torch.zeros(1, 384, dtype=torch.float64), torch.ones(1, dtype=torch.bool)
    folder = f"adapters/{ids[0]}"
    adapter = {k: v.double() for k, v in load_adapter(run, folder).items()}
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(network, f"{run.uri}/{folder}").eval()(
            x, tokens[None], mask[None]
        )
        torch.testing.assert_close(theirs, translator(adapter, x, tokens, mask))
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
    methods |= {"shuffled prompt", "ground-truth adapter"}
    assert {r["method"] for r in rows if r["finetune"] == "published"} == methods
    methods |= {UNREFINED, ZERO_REFINED}
    assert {r["method"] for r in rows if r["finetune"] == "own"} == methods
    assert {r["concept_id"] for r in rows} == set(ids)
    assert all(0 < r["l1"] < 2 for r in rows)


def test_it_serves(run: RunDir) -> None:
    config = load_config([*WORDS, f"run_dir={run.uri}"])
    weights, translator = WeightPart(config, run), TranslatorPart(config, run)
    ask = Ask("indigo hair, on a coral background", 0, config.adapt.t, 1)
    (loaded,) = weights.predict([(ask, TextPart(config, run).encode([ask.concept])[0])])
    assert isinstance(loaded, Loaded)
    picture = render(portrait(3), 32)
    (made,) = translator.translate([(picture, [translator.merge(loaded)])])
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


def test_pictures_in_the_store_are_edited_into_it(
    stored: tuple[RunDir, str], bucket: str, tmp_path: Path
) -> None:
    run, _ = stored
    pictures, out = RunDir(f"{bucket}/pictures"), RunDir(f"{bucket}/edited")
    drawn = render(portrait(3), 48)
    pictures.write("a/one.png", encode_png(drawn))
    pictures.write("two.PNG", encode_png(drawn))
    pictures.write("bad.jpg", b"no picture")
    command = ["translate", "concept=red hair", f"run_dir={run.uri}"]
    command += [f"images={pictures.uri}", f"out={out.uri}"]
    with Driver(command, tmp_path) as driver:
        assert driver.process.wait(180) == 1, driver.output()
    assert set(out.files("")) == {"a/one.png", "two.PNG", "translate.json"}
    assert set(out.read_json("translate.json")["bad"]) == {"bad.jpg"}
    used = Run(run.uri)
    (expected,) = used.translate([drawn], used.predict("red hair"))
    made = decode_image(out.read("a/one.png")).astype(int)
    assert made.shape == drawn.shape and np.abs(made - expected).max() <= 1  # other threads
    assert np.abs(made - drawn).max() > 1
