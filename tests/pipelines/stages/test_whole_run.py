"""All stages, end to end on a real local Ray: what they leave, and what they survive.

The run under test was killed twice (conftest.py): nothing here may tell it from one that was not.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file

from modeling.editors.registry import make_editor
from modeling.editors.sources import load_source
from modeling.images import decode_image, encode_png
from modeling.targets.adapter_training import batch_order
from modeling.targets.lora import WEIGHTS_FILE, Adapter, AdapterError
from modeling.weights.normalisation import NormalisationSums
from pipelines.__main__ import main
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.inventory import inventory
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import NO_DASHBOARD, ray_session
from pipelines.runtime.stage_table import STAGES
from pipelines.stages.concepts import load_concepts, load_text
from pipelines.stages.contenders import OWN, PUBLISHED, UNREFINED, ZERO_REFINED
from pipelines.stages.evaluation_tables import load_rows
from pipelines.stages.image_pairs import Draws, ImagePairs, image_pools, wordings_of
from pipelines.stages.pairs import load_pairs
from tests.collected import load_blocks
from tests.conftest import Finished
from tests.rounding import rounding

LONG = ("ground-truth adapter", "prediction, full budget")
METHODS = {
    "prediction",
    "identity",
    "zero LoRA",
    "mean adapter",
    "nearest text",
    "ridge",
    "shuffled prompt",
    "joint adapter",
    "Reptile",
    "LoRA-GA",
    *LONG,
    "prediction, weights only",
    "1-D UNet",
    "1-D UNet, weights only",
}
BY_LEARNED_STEPS = {UNREFINED, ZERO_REFINED}


@pytest.fixture(scope="module")
def run(finished: Finished) -> RunDir:
    return RunDir(str(finished.folder))


@pytest.fixture(scope="module")
def config(finished: Finished) -> Config:
    return load_config([*finished.words, f"run_dir={finished.folder}"])


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One local Ray for the commands that tests give in this process."""
    with ray_session(load_config(["preset=tiny", "generator.workers=2"])):
        yield


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files, hidden ones included."""
    paths = [Path(at, name) for at, _, names in os.walk(folder) for name in names]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}


# What the signals did


def test_what_stopped_it_was_said(finished: Finished) -> None:
    for text in finished.outputs[:2]:
        # beside what a worker of Ray may say that aborts at its end (docs/known-ray-faults.md): had
        # it been the driver, its exit status would not have been the signal's
        assert "denoised-weights: stopped; the same command continues" in text.splitlines()
        assert "Traceback (most recent call last)" not in text


def test_base_went_on_from_its_checkpoint(finished: Finished) -> None:
    before, after = finished.base_steps
    killed_at = max(before.values())
    assert 6 <= killed_at < 30
    fresh = {name: step for name, step in after.items() if name not in before}
    assert fresh and min(fresh.values()) > killed_at and max(fresh.values()) == 30
    assert "base: continuing where it was stopped" in finished.outputs[1]


def test_gans_went_on_with_the_concepts_that_were_left(finished: Finished) -> None:
    assert 0 < finished.adapters < 15
    last = finished.outputs[2]
    assert "gans: continuing where it was stopped" in last
    assert "base: finished earlier, 3 files verified" in last


# What a run leaves


def test_every_stage_left_its_artifacts_and_a_marker(run: RunDir, config: Config) -> None:
    for stage in STAGES:
        marker = run.read_json(f"stages/{stage.name}.json")
        assert marker["files"] == inventory(run, stage) != {}
    assert run.read("report/index.html").lstrip().lower().startswith(b"<!doctype html")
    assert run.files("errors") == []
    assert not [name for name in files_of(Path(run.uri)) if name.endswith(".part")]
    with pytest.raises(ArtifactError):
        run.read("no such file")


def test_pairs_are_plain_parquet_split_by_image_and_exact(run: RunDir, config: Config) -> None:
    concepts = {c.concept_id: c for c in load_concepts(run) if c.origin != "paraphrased"}
    editor = make_editor("avatar")
    split_of: dict[str, str] = {}
    for number, (concept_id, concept) in enumerate(concepts.items()):
        table = pq.read_table(f"{run.uri}/pairs/{concept_id}.parquet")
        rows = table.to_pylist()
        assert len({r["image_id"] for r in rows}) == len(rows)
        splits = {"train": 16, "val": 2, "test": 2} if concept.adapter else {"train": 5}
        assert Counter(r["split"] for r in rows) == splits
        assert {(r["concept_id"], r["editor"]) for r in rows} == {(concept_id, "avatar")}
        for row in rows:
            assert split_of.setdefault(row["image_id"], row["split"]) == row["split"]
        for row in rows[number % 5 :: 5]:
            source = load_source(row["image_id"], "avatars", 32)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["source"]))), source.image)
            edited = editor.draw(source, concept)
            assert np.array_equal(decode_image(row["edited"]), edited.image)
            assert json.loads(row["scores"]) == edited.scores
    assert len(split_of) == 20 and len(run.files("pairs")) == len(concepts)


def test_nothing_held_out_was_trained_on(run: RunDir) -> None:
    concepts = load_concepts(run)
    heldout = {c.concept_id for c in concepts if c.split == "test"}
    paraphrases = {c.concept_id for c in concepts if c.origin == "paraphrased"}
    train = {c.concept_id for c in concepts if c.split == "train" and c.adapter} - paraphrases
    paired = {c.concept_id for c in concepts if not c.adapter} - paraphrases
    (validation,) = (c.concept_id for c in concepts if c.split == "val")
    assert len(heldout) == 3 and len(train) == 14 and len(paired) == 2 + 4
    assert {f.split("/")[1] for f in run.files("adapters")} == {*train, validation}
    blocks = pq.read_table(f"{run.uri}/weights/blocks")
    splits = dict(zip(*(blocks[k].to_pylist() for k in ("concept_id", "split")), strict=True))
    assert splits == {**dict.fromkeys(train, "train"), validation: "val"}
    assert set(run.read_json("base/base.json")["concepts"]) <= train
    assert {f.split("/")[1] for f in run.files("adapted")} == heldout


def test_the_image_loss_draws_from_concepts_with_and_without_an_adapter(
    run: RunDir, config: Config
) -> None:
    concepts = [c for c in load_concepts(run) if c.split == "train" and c.origin != "paraphrased"]
    collected = sorted(c.concept_id for c in concepts if c.adapter)
    bare = [c for c in concepts if not c.adapter]
    paired = sorted(c.concept_id for c in bare if c.category == "combined")
    sepia = sorted(c.concept_id for c in bare if c.families == ("sepia",))
    assert image_pools(config, run) == [collected, paired, sepia]
    config = replace(config, weights=replace(config.weights, concepts=7))
    (half, one, two) = image_pools(config, run)
    assert set(half) < set(collected) and len(half) == 7 and one[0] in paired and len(one) == 1
    assert set(two) < set(sepia) and len(two) == 2
    images = ImagePairs(
        config,
        run,
        [collected, paired, sepia],
        load_text(run),
        wordings_of(run),
        0,
        1,
        Draws(steps=2, concepts=3, pairs=2),
    )
    batch = images.read(0, random.Random(0))
    assert batch.source.shape == batch.edited.shape == (3, 2, 3, 32, 32)
    pictures = load_pairs(run, images.pools[1][images.orders[1][0, 0]], "train")
    assert all(
        (batch.edited[1, i] == torch.from_numpy(pictures.edited)).flatten(1).all(1).any()
        for i in range(2)
    )


def test_adapters_load_in_peft_and_edit_as_ours_do(run: RunDir, config: Config) -> None:
    from peft import PeftModel

    from modeling.targets.families import frozen_target
    from modeling.targets.shapes import from_description
    from pipelines.stages.base import load_base
    from pipelines.stages.gans import load_adapter

    translator, _ = load_base(config, run)
    translator.network.double()  # two orders of one sum: tests/rounding.py
    texts = load_text(run)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    ids = sorted({f.split("/")[1] for f in run.files("adapters")})
    for folder in [f"adapters/{ids[0]}", f"adapters/{ids[-1]}"]:
        network = frozen_target(from_description(run.read_json("base/base.json")["translator"]))
        network.load_state_dict(load_file(f"{run.uri}/base/translator.safetensors"))
        network.double()
        tokens = texts[folder.split("/")[1]].tokens.double()
        mask = torch.ones(len(tokens), dtype=torch.bool)
        adapter = {k: v.double() for k, v in load_adapter(run, folder).items()}
        translator.check(adapter)
        with torch.no_grad():
            plain = network(x, tokens[None], mask[None])
            model = PeftModel.from_pretrained(network, f"{run.uri}/{folder}").eval()
            theirs = model(x, tokens[None], mask[None])
            ours = translator(adapter, x, tokens, mask)
        torch.testing.assert_close(theirs, ours)
        assert (theirs - plain).abs().max() > 1e-3


def test_tensorboard_has_whole_curves_and_pictures(run: RunDir) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for what, scores, steps in (
        ("base", {"l1"}, [10, 20, 30]),  # in two attempts
        ("generator", {"denoising", "image"}, []),
        ("generator-1", {"denoising", "image"}, []),
        ("rival-0", {"denoising", "image"}, []),
    ):
        read = EventAccumulator(run.path(f"tracking/{what}"))
        read.Reload()
        tags = read.Tags()
        assert scores | {"steps a second"} <= set(tags["scalars"]), (what, tags)
        assert tags["images"] == ["source, made, true"], (what, tags)
        points = read.Scalars("l1" if what == "base" else "denoising")
        assert [p.step for p in points] == (steps or sorted({p.step for p in points}))
        assert all(np.isfinite(p.value) for p in points)


def test_its_status_is_that_of_a_finished_run(run: RunDir) -> None:
    from pipelines.runtime.heartbeat import FINISHED
    from pipelines.verbs.status import rows_of

    rows = {r.stage: r for r in rows_of(run)}
    assert {r.state for r in rows.values()} == {FINISHED}
    assert rows["base"].attempts == 2 and rows["gans"].attempts >= 2
    assert rows["adapt"].attempts == 1
    assert rows["gans"].done == rows["gans"].total > 0 and rows["gans"].unit == "concepts"
    assert run.exists("progress/base.training.json")


def test_metrics_of_the_collection(run: RunDir) -> None:
    ids = {f.split("/")[1] for f in run.files("adapters")}
    metrics = [run.read_json(f"adapters/{i}/metrics.json") for i in ids]
    assert all(m["steps"] == 20 and m["seconds"] > 0 for m in metrics)
    # adapters beat the base without one, on images that no training saw: clearly so on the whole,
    # and none loses; the edits of some are too small for 20 steps, and roundings decide
    gains = [m["l1"] / m["zero"] for m in metrics]
    assert max(gains) < 1.02
    assert sum(gain < 0.95 for gain in gains) > len(gains) / 2
    assert sum(m["l1"] for m in metrics) < 0.9 * sum(m["zero"] for m in metrics)


def test_blocks_are_the_adapters_and_invert_exactly(run: RunDir) -> None:
    from pipelines.stages.weights import load_layout

    layout, normalisation = load_layout(run)
    table = pq.read_table(f"{run.uri}/weights/blocks")
    blocks = torch.from_numpy(
        np.array(table["blocks"].combine_chunks().to_numpy_ndarray(), dtype=np.float32)
    )
    assert blocks.shape == (15, layout.n_blocks, layout.block_size) == (15, layout.n_blocks, 64)
    assert (blocks[:, ~layout.mask] == 0).all()
    for concept_id, own in zip(table["concept_id"].to_pylist(), blocks, strict=True):
        adapter = load_file(f"{run.uri}/adapters/{concept_id}/{WEIGHTS_FILE}")
        back = layout.from_blocks(own)
        assert back.keys() == adapter.keys()
        assert all(torch.equal(back[k], adapter[k]) for k in adapter)
    sums = NormalisationSums.empty(layout)
    training = torch.tensor([split == "train" for split in table["split"].to_pylist()])
    blocks = blocks[training]  # a validation concept's adapter is none of the generator's
    sums.add(blocks)
    again = sums.finish(layout, "element")
    # float64 sums in another order, rounded to float32
    for ours, theirs in ((again.centre, normalisation.centre), (again.scale, normalisation.scale)):
        torch.testing.assert_close(ours, theirs, rtol=rounding(1, torch.ones(1)), atol=1e-12)
    back = normalisation.invert(normalisation.apply(blocks))
    torch.testing.assert_close(back, blocks, rtol=0, atol=rounding(4, blocks))
    unit = normalisation.apply(blocks)[:, layout.mask]
    assert unit.mean(0).abs().max() < 1e-3 and 0.5 < unit.std() < 1.5


def test_the_weight_generator_fits_the_layout_and_predicts_what_was_adapted(
    run: RunDir, config: Config
) -> None:
    from pipelines.stages.adapt import heldout, load_timings, step_folder
    from pipelines.stages.gans import load_adapter
    from pipelines.stages.prediction import Predictor
    from pipelines.stages.weight_generators import load_generator

    generator = load_generator(run).model.config
    predictor = Predictor(to_dict(config), run)
    assert (generator.n_blocks, generator.block_size) == (predictor.decoder.layout.n_blocks, 64)

    def apart(a: Adapter, b: Adapter) -> float:
        return max((a[k] - b[k]).abs().max().item() for k in a)

    adapters = {i: predictor.predict([i])[0] for i in heldout(run, "test")}
    for concept_id, predicted in adapters.items():
        steps = [load_adapter(run, step_folder(concept_id, s)) for s in (0, 2, 4)]
        # another process may round otherwise, and comes nowhere near another concept
        next_one = min(apart(predicted, a) for i, a in adapters.items() if i != concept_id)
        assert apart(predicted, steps[0]) < 0.1 * next_one
        assert all(
            not torch.equal(a[k], b[k])
            for a, b in itertools.pairwise(steps)
            for k in predicted
            if "lora_B" in k
        )
        timings = load_timings(run, concept_id)
        assert all(timings[k] > 0 for k in ("predict", "load", "coreset", "finetune"))


def test_evaluation_has_every_method_and_seed_at_equal_n(run: RunDir) -> None:
    from pipelines.stages.evaluation_tables import PICTURES, ROWS

    table = pq.read_table(f"{run.uri}/evaluation/rows.parquet")
    assert table.schema.equals(ROWS)
    rows = table.to_pylist()
    scratch = [r for r in rows if r["method"] == "from scratch"]
    rows = [r for r in rows if r["method"] != "from scratch"]
    steps: dict[tuple[str, str, int, str], list[int]] = defaultdict(list)
    for row in rows:
        key = (row["concept_id"], row["method"], row["seed"], row["finetune"])
        steps[key].append(row["step"])
    concepts = {c.concept_id: c for c in load_concepts(run) if c.split == "test"}
    regimes = {"own": METHODS | BY_LEARNED_STEPS, "published": METHODS}
    assert set(steps) == {
        (c, m, s, regime)
        for regime, methods in regimes.items()
        for c in concepts
        for m in methods
        for s in (0, 1)
    }
    for (_, method, _, _), taken in steps.items():
        long = {m: list(range(2, 21, 2)) for m in LONG}
        assert taken == {**long, "identity": [0]}.get(method, [0, 1, 2, 4])  # 1: a learned one
    for row in rows:
        concept = concepts[row["concept_id"]]
        assert row["n"] == 8 and row["split"] == "test" and row["fd"] is None
        assert (row["text"], row["heldout"]) == (concept.text, concept.heldout)
        assert 0 < row["l1"] < 2 and row["seconds"] >= 0
        last = 20 if row["method"] in LONG else 4
        once = row["finetune"] == "own" or row["method"] in ("ground-truth adapter", "identity")
        scored = row["step"] in (0, last) and row["seed"] == 0 and once
        assert (row["kid"] is not None) == scored
        assert row["kid"] is None or math.isfinite(row["kid"])
    # one concept of each held-out set is also trained from scratch, and that training trains
    assert {concepts[r["concept_id"]].heldout for r in scratch} == {"atoms", "combinations"}
    assert len({r["concept_id"] for r in scratch}) == 2
    own = [r for r in scratch if r["finetune"] == "own"]
    assert len(own) == len(scratch) / 2
    for concept_id, seed in itertools.product({r["concept_id"] for r in scratch}, (0, 1)):
        mine = [r for r in own if (r["concept_id"], r["seed"]) == (concept_id, seed)]
        assert [r["step"] for r in mine] == list(range(1, 11))
        assert mine[0]["seconds"] < mine[-1]["seconds"]
        assert len({r["l1"] for r in mine}) == 10
    pictures = pq.read_table(f"{run.uri}/evaluation/pictures.parquet")
    assert pictures.schema.equals(PICTURES)
    shown = {(r["method"], r["step"]) for r in pictures.to_pylist()}
    assert {("source", 0), ("ground truth", 0), ("prediction", 0), ("prediction", 4)} <= shown
    assert decode_image(pictures["image"][0].as_py()).shape == (32, 32, 3)


def test_seeds_and_weight_generators_differ_where_they_should(run: RunDir) -> None:
    rows = load_rows(run)
    score = {(r["concept_id"], r["method"], r["seed"], r["step"]): r["l1"] for r in rows}
    one = next(r["concept_id"] for r in rows)
    for method in METHODS:
        before = [score.get((one, method, seed, 0)) for seed in (0, 1)]
        if method in LONG:
            continue
        generated = "UNet" in method or "pred" in method or method == "shuffled prompt"
        assert (before[0] != before[1]) == generated, method
        # every fine-tune but doing nothing draws its own images
        if method != "identity":
            assert score[one, method, 0, 4] != score[one, method, 1, 4]
    starts = {m: score[one, m, 0, 0] for m in METHODS if m not in LONG}
    assert starts.pop("LoRA-GA") == starts["zero LoRA"]  # its B is zero, too
    assert len(set(starts.values())) == len(starts)


def test_regimes_start_alike_and_end_apart(run: RunDir) -> None:
    own, published = ({_place(r): r["l1"] for r in load_rows(run, x)} for x in (OWN, PUBLISHED))
    for key, l1 in published.items():
        _, method, _, step = key
        if step == 0 or method in ("ground-truth adapter", "from scratch"):
            assert own[key] == l1, key
        elif step == 4 or method in LONG:
            assert own[key] != l1, key
    for (concept, method, seed, step), l1 in own.items():
        if method == UNREFINED:
            assert (l1 == own[concept, "prediction", seed, step]) == (step == 0)
        if method == ZERO_REFINED:
            assert (l1 == own[concept, "zero LoRA", seed, step]) == (step == 0)


def _place(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["concept_id"], row["method"], row["seed"], row["step"]


def test_the_refiners_and_the_basis_are_those_of_the_run(run: RunDir, config: Config) -> None:
    from pipelines.stages.gradients import load_basis
    from pipelines.stages.refiners import load_refiner
    from pipelines.stages.weights import load_layout

    layout, _ = load_layout(run)
    basis = load_basis(run, layout)
    assert basis.count == 3 * config.refine.basis_concepts
    for repeat in (0, 1):
        refiner = load_refiner(run, repeat)
        assert (refiner.config.n_blocks, refiner.config.width) == (layout.n_blocks, 32)
        assert refiner.heads_out.weight.abs().max() > 0  # it has been trained
    summary = run.read_json("stages/generator.json")["summary"]
    assert {"start", "after 2", "seconds"} == set(summary["refiner"]) == set(summary["refiner-1"])


def test_distance_to_the_nearest_training_adapter(run: RunDir, config: Config) -> None:
    from pipelines.stages.contenders import Contenders

    rows = pq.read_table(f"{run.uri}/evaluation/memory.parquet").to_pylist()
    generators = {"prediction", "prediction, weights only", "1-D UNet", "1-D UNet, weights only"}
    assert {r["method"] for r in rows} == generators and {r["seed"] for r in rows} == {0, 1}
    contenders = Contenders(to_dict(config), run)
    row = next(r for r in rows if (r["method"], r["seed"]) == ("1-D UNet, weights only", 1))
    own = contenders.starts(row["concept_id"], 1)["1-D UNet, weights only"]
    decoder = contenders.decoder
    mask = decoder.layout.mask
    flat = decoder.encode(own)[mask]
    ids, raw = load_blocks(run, "train")
    collected = decoder.normalisation.apply(raw)
    gaps = [(b[mask] - flat).square().mean().sqrt().item() for b in collected]
    assert row["distance"] == pytest.approx(min(gaps), rel=1e-4)
    assert row["nearest"] == ids[gaps.index(min(gaps))]
    assert run.read_json("evaluation/about.json")["training_gap"] > 0


def test_controls_are_those_of_the_whole_collection(
    run: RunDir, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in passes over its parts, however many concepts a pass is for."""
    from modeling.weights.controls import KernelRidge, gram
    from pipelines.stages import controls
    from pipelines.stages.weights import load_layout

    ids, raw = load_blocks(run, "train")
    blocks, texts = load_layout(run)[1].apply(raw), load_text(run)
    held = [c.concept_id for c in load_concepts(run) if c.split == config.adapt.split]
    pooled = texts.pooled(ids)
    ridge = KernelRidge.choose(pooled, gram(blocks.flatten(1)))
    monkeypatch.setattr(controls, "HELD", 1)
    monkeypatch.setattr(RunDir, "write", lambda self, name, data: written.update({name: data}))
    written: dict[str, bytes] = {}
    controls.write_controls(run, "again", held, ["ridge"])
    for concept_id in held:
        made = controls.load_controls(run, "evaluation", concept_id)
        for name, data in load(written[controls.file_of("again", concept_id)]).items():
            torch.testing.assert_close(data, made[name], rtol=0, atol=1e-6)
        query = texts.pooled([concept_id])
        near = int(torch.cosine_similarity(query, pooled).argmax())
        weights = ridge.weights(query, pooled)[0]
        wanted = {
            "mean adapter": blocks.double().mean(0).float(),
            "deviation": blocks.double().std(0, correction=0).float(),
            "nearest text": blocks[near],
            "ridge": torch.einsum("m,mnb->nb", weights, blocks.double()).float(),
        }
        assert made.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(made[name], value, rtol=0, atol=1e-6)


def test_evaluation_scores_images_that_no_training_saw(run: RunDir, config: Config) -> None:
    pictures = pq.read_table(f"{run.uri}/evaluation/pictures.parquet").to_pylist()
    used = set(pq.read_table(f"{run.uri}/pairs")["image_id"].to_pylist())
    assert not used & {r["image_id"] for r in pictures}
    truth = next(r for r in pictures if r["method"] == "ground truth")
    concept = next(c for c in load_concepts(run) if c.concept_id == truth["concept_id"])
    source = load_source(truth["image_id"], "avatars", 32)
    assert np.array_equal(
        decode_image(truth["image"]), make_editor("avatar").draw(source, concept).image
    )


# What a run survives


def test_the_same_command_again_changes_nothing(
    finished: Finished, ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(finished.folder)
    assert main(["run", *finished.words, f"run_dir={finished.folder}"]) == 0
    printed = capsys.readouterr().err
    assert all(f"{s.name}: finished earlier" in printed for s in STAGES)
    assert files_of(finished.folder) == before


def test_damage_heals_bit_for_bit(
    finished: Finished, ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = finished.copy(tmp_path / "run")
    run, whole = RunDir(str(tmp_path / "run")), RunDir(str(finished.folder))
    run.delete("base/translator.safetensors")
    run.delete("generator/ema.safetensors")
    normalisation = bytearray(run.read("weights/normalisation.safetensors"))
    normalisation[-1] ^= 1
    run.write("weights/normalisation.safetensors", bytes(normalisation))
    # sound files at the wrong place: an adapter of another concept, a layout of other blocks
    one, other = [f for f in run.files("adapters") if f.endswith(WEIGHTS_FILE)][:2]
    run.write(one, run.read(other))
    layout = run.read_json("weights/layout.json")
    run.write_json("weights/layout.json", {**layout, "block_size": 2 * layout["block_size"]})
    # of all concepts: no row is left to do, and still they are made again
    for name in ("nearest.parquet", "controls/shared.safetensors", "rows.parquet"):
        run.delete(f"evaluation/{name}")
    status = main(["run", *words])
    printed = capsys.readouterr().err
    assert status == 0, printed
    healed_files = {"base": 1, "gans": 1, "weights": 2, "generator": 1, "evaluate": 3}
    for name, number in healed_files.items():
        assert f"{name}: {number} of its files are missing or changed" in printed
    timed = one.replace(WEIGHTS_FILE, "metrics.json")
    for stage in STAGES:
        healed, made = inventory(run, stage), inventory(whole, stage)
        assert {f for f in healed.keys() | made.keys() if healed.get(f) != made.get(f)} <= {timed}
    (again, first) = (run.read_json(timed), whole.read_json(timed))
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_damaged_files_are_named(finished: Finished, config: Config, tmp_path: Path) -> None:
    from pipelines.stages.base import load_base
    from pipelines.stages.gans import load_adapter
    from pipelines.stages.pairs import load_pairs
    from pipelines.stages.weight_generators import load_generator
    from pipelines.stages.weights import load_layout

    finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    (adapter, *_) = [f for f in run.files("adapters") if f.endswith(WEIGHTS_FILE)]
    (pair, *_) = run.files("pairs")
    concept_id = Path(pair).stem
    readers = {
        "concepts.parquet": lambda: load_concepts(run),
        "text.parquet": lambda: load_text(run),
        pair: lambda: load_pairs(run, concept_id, "train"),
        "base/base.json": lambda: load_base(config, run),
        "base/translator.safetensors": lambda: load_base(config, run),
        "base/discriminator.safetensors": lambda: load_base(config, run),
        adapter: lambda: load_adapter(run, adapter.rpartition("/")[0]),
        "weights/layout.json": lambda: load_layout(run),
        "weights/normalisation.safetensors": lambda: load_layout(run),
        "weights/blocks/part-00000.parquet": lambda: load_blocks(run, "train"),
        "generator/generator.json": lambda: load_generator(run),
        "generator/model.safetensors": lambda: load_generator(run),
        "generator/ema.safetensors": lambda: load_generator(run),
    }
    for name, read in readers.items():
        sound = run.read(name)
        read()
        for damaged in (sound[: len(sound) // 2], b""):
            run.write(name, damaged)
            with pytest.raises((ArtifactError, AdapterError)) as caught:
                read()
            # a folder's files are read as one: its name, and then the file's
            assert all(part in str(caught.value) for part in (run.uri, name.split("/")[0])), name
        run.write(name, sound)


def test_a_corrupt_picture_is_an_error_row_and_the_rest_is_fine(
    ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, run = tmp_path / "photos", RunDir(str(tmp_path / "run"))
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        image = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        (photos / f"{i:02}.png").write_bytes(encode_png(image))
    (photos / "05.png").write_bytes((photos / "05.png").read_bytes()[:200])
    words = [
        "preset=tiny",
        f"run_dir={run.uri}",
        "images.source=folder",
        f"images.path={photos}",
        "images.count=12",
        "concepts.families=[duotone]",
        "concepts.combine=[]",
        "concepts.train_combinations=0",
        "concepts.paired_combinations=0",
        "concepts.paired_families=[]",
        "concepts.test_combinations=0",
    ]
    assert main(["concepts", *words]) == 0
    for _ in range(2):  # the second time there is nothing left to do, and still it must not pass
        assert main(["pairs", *words]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert "rows are bad, more than max_error_fraction=0.05" in line and "05.png" in line
    assert main(["pairs", *words, "max_error_fraction=0.1"]) == 0
    concepts = [c for c in load_concepts(run) if c.origin != "paraphrased"]
    errors = run.read_table("errors/pairs.parquet").to_pylist()
    assert [e["key"] for e in errors] == [f"{c.concept_id}/05.png" for c in concepts]
    assert all(f"{photos}/05.png" in e["reason"] for e in errors)
    for concept in concepts:
        rows = pq.read_table(f"{run.uri}/pairs/{concept.concept_id}.parquet").to_pylist()
        assert [r["image_id"] for r in rows] == [f"{i:02}.png" for i in range(12) if i != 5]
        for row in rows:
            source = load_source(row["image_id"], photos, 32)
            assert np.array_equal(decode_image(row["source"]), source.image)
            edited = make_editor("filter").draw(source, concept).image
            assert np.array_equal(decode_image(row["edited"]), edited)
    # one file cut short: made again as it was, and the others' errors are not forgotten
    (cut, *_) = run.files("pairs")
    sound = run.read(cut)
    run.write(cut, sound[:-100])
    assert main(["pairs", *words, "max_error_fraction=0.1"]) == 0
    assert f"pairs: 1 of its files are missing or changed ({cut})" in capsys.readouterr().err
    assert run.read(cut) == sound
    assert run.read_table("errors/pairs.parquet").to_pylist() == errors


def test_a_diverging_concept_is_an_error_row(finished: Finished, tmp_path: Path) -> None:
    """Without Ray: what the actor gives the stage for a batch."""
    from pipelines.stages.gans import CollectAdapters

    words = finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    run.delete("adapters")
    config = load_config([*words, "gans.lr=1e30"])
    concept_id = next(c.concept_id for c in load_concepts(run) if c.split == "train")
    out = CollectAdapters(to_dict(config), run, 4)({"concept_id": np.array([concept_id])})
    assert out["concept_id"] == [concept_id] and "non-finite" in out["error"][0]
    assert run.files("adapters") == []


def test_adapters_that_do_not_fit_together_are_trained_apart(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gans.concepts_per_batch=0 with room for one, without Ray: the adapters that there were."""
    from pipelines.stages import gans

    words = finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    own = [w for w in words if not w.startswith("gans.concepts_per_batch=")]
    config = load_config([*own, "gans.concepts_per_batch=0"])
    ids = sorted(f.split("/")[1] for f in run.files("adapters") if f.endswith("/metrics.json"))[:3]
    before = [gans.load_adapter(run, f"adapters/{i}") for i in ids]
    steps = run.read_json(f"adapters/{ids[0]}/metrics.json")["steps"]
    run.delete("adapters")
    tried: list[int] = []
    train = gans.train_adapters

    def limited(translator: Any, concepts: list[Any], *rest: Any) -> Any:
        tried.append(len(concepts))
        if len(concepts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(translator, concepts, *rest)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gans, "train_adapters", limited)
    actor = gans.CollectAdapters(to_dict(config), run, steps)
    actor({"concept_id": np.array(ids)})
    assert tried == [3, 1, 1, 1]
    for concept_id, old in zip(ids, before, strict=True):
        new = gans.load_adapter(run, f"adapters/{concept_id}")
        for key, weights in old.items():
            torch.testing.assert_close(new[key], weights, atol=2e-4, rtol=1e-3)
    again = gans.CollectAdapters(to_dict(config), run, steps)
    assert again.fit.size == 1 and gans.concepts_at_once(config) > 1


def test_two_workers_train_one_weight_generator(
    finished: Finished, ray: None, tmp_path: Path
) -> None:
    """DistributedDataParallel over gloo, on both losses."""
    from pipelines.stages.weight_generators import load_generator

    words = [w for w in finished.copy(tmp_path / "run") if not w.startswith(("repeats", "rival"))]
    run = RunDir(str(tmp_path / "run"))
    alone = load_generator(run)
    assert main(["generator", *words, "redo=[generator]", "generator.workers=2"]) == 0
    summary = run.read_json("stages/generator.json")["summary"]
    assert math.isfinite(summary["denoising"]) and 0 < summary["image"] < 2
    both = load_generator(run)
    assert both.metadata["step"] == 12
    weights = both.model.state_dict()
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert any(not torch.equal(w, alone.model.state_dict()[k]) for k, w in weights.items())
    assert run.files("adapted") == run.files("evaluation") == []


def test_fewer_concepts_are_a_part_of_more(finished: Finished, ray: None, tmp_path: Path) -> None:

    words = finished.copy(tmp_path / "run")
    run = RunDir(str(tmp_path / "run"))
    whole = set(load_blocks(run, "train")[0])
    seen = []
    for count in (5, 9):
        assert main(["weights", *words, "redo=[weights]", f"weights.concepts={count}"]) == 0
        seen.append(set(load_blocks(run, "train")[0]))
    assert [len(s) for s in seen] == [5, 9] and seen[0] < seen[1] < whole


def test_more_concepts_than_there_are_is_refused(
    finished: Finished, ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = finished.copy(tmp_path / "run")
    assert main(["weights", *words, "redo=[weights]", "weights.concepts=99"]) == 2
    assert "weights.concepts=99: only 14 concepts have an adapter" in capsys.readouterr().err


# How the weight generator is fed


def test_cached_batches_are_a_share_of_one_global_order(run: RunDir, ray: None) -> None:
    import ray.data

    from pipelines.runtime.ingest import cached_batches

    ids, blocks = load_blocks(run, "train")
    own = dict(zip(ids, blocks, strict=True))
    rows = ray.data.read_parquet(f"{run.uri}/weights/blocks")
    shard = rows.filter(expr="split == 'train'").iterator()
    order = batch_order(14, 6, 8, 3)
    for rank in (0, 1):
        batches = list(cached_batches(shard, 6, 4, 3, 0, rank, 2))
        for step, batch in enumerate(batches):
            index = order[step].view(2, 4)[rank].tolist()
            assert batch.concept_ids == [sorted(ids)[i] for i in index]
            assert all(torch.equal(b, own[i]) for i, b in zip(*batch, strict=True))
        late = list(cached_batches(shard, 6, 4, 3, 4, rank, 2))
        assert [b.concept_ids for b in late] == [b.concept_ids for b in batches[4:]]


def test_streamed_batches_see_every_row_in_an_epoch(run: RunDir, ray: None) -> None:
    import ray.data

    from pipelines.runtime.ingest import streamed_batches

    ids, blocks = load_blocks(run, "train")
    own = dict(zip(ids, blocks, strict=True))
    rows = ray.data.read_parquet(f"{run.uri}/weights/blocks")
    shard = rows.filter(expr="split == 'train'").iterator()
    batches = list(streamed_batches(shard, 8, 7, 0, 1))
    assert len(batches) == 7
    for epoch in (batches[:2], batches[2:4]):
        assert sorted(i for b in epoch for i in b.concept_ids) == sorted(ids)
    for batch in batches:
        assert all(torch.equal(b, own[i]) for i, b in zip(*batch, strict=True))
    with pytest.raises(ValueError, match="fewer rows than a batch of 16"):
        list(streamed_batches(shard, 1, 16, 0, 0))


def test_no_process_of_a_local_ray_asks_the_dashboard_of_another_one(ray: None) -> None:
    from ray import get, remote

    def asked() -> str:
        from ray.dashboard.utils import get_address_for_submission_client

        return str(get_address_for_submission_client(None))

    assert get(remote(asked).remote()) == NO_DASHBOARD
    assert "RAY_API_SERVER_ADDRESS" not in os.environ
