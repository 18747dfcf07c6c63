"""Stage compare: every method on the same unseen images, resumable, and timed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling.images import decode_image
from pipelines.__main__ import main
from pipelines.comparison.actor import CompareMethods
from pipelines.comparison.budgets import spent
from pipelines.comparison.fairness import UnfairError
from pipelines.comparison.jobs import ADAPTING, chosen, jobs
from pipelines.comparison.methods import E2GAN_BY_OURS
from pipelines.comparison.planning import compare_work
from pipelines.comparison.scoring import Scorer
from pipelines.comparison.table import markdown
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.config.tree import to_dict
from pipelines.plan.counts import concept_counts
from pipelines.plan.shapes import Shapes
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import IDENTITY, UNREFINED, ZERO_REFINED
from pipelines.stages.judging import digests
from tests.conftest import Finished

METHODS = {
    *BASELINES,
    *("E²GAN", "prediction", "prediction, E²GAN’s budget", "zero LoRA", "mean adapter"),
    *("nearest text", "ridge", "shuffled prompt", IDENTITY),
    *(E2GAN_BY_OURS, UNREFINED, ZERO_REFINED),
}


@pytest.fixture(scope="module")
def words(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A copy of the finished run on which `compare` has been run."""
    words = finished.copy(tmp_path_factory.mktemp("compare") / "run")
    with ray_session(load_config(words)):
        assert main(["compare", *words]) == 0
    return words


@pytest.fixture(scope="module")
def config(words: list[str]) -> Config:
    return load_config(words)


@pytest.fixture(scope="module")
def run(config: Config) -> RunDir:
    return RunDir(config.run_dir)


@pytest.fixture(scope="module")
def actor(config: Config, run: RunDir) -> Iterator[CompareMethods]:
    threads = torch.get_num_threads()
    yield CompareMethods(to_dict(config), run)
    torch.set_num_threads(threads)


def rows_of(run: RunDir) -> list[dict[str, Any]]:
    return list(run.read_table("comparison/rows.parquet").to_pylist())


def test_every_method_concept_seed_and_epoch_has_a_row_at_equal_n(
    run: RunDir, config: Config
) -> None:
    rows = rows_of(run)
    everything, scratch = chosen(config, run)
    assert {r["method"] for r in rows} == METHODS
    assert {r["n"] for r in rows} == {8}
    for method in METHODS:
        mine = [r for r in rows if r["method"] == method]
        where = scratch if method in BASELINES else everything
        assert {r["concept_id"] for r in mine} == set(where)
        seeds = {0} if method in BASELINES else {0, 1}
        assert {r["seed"] for r in mine} == seeds
    assert {r["epoch"] for r in rows if r["method"] == "prediction"} == {0, 1, 2}
    either = {r["method"] for r in rows if r["finetune"]}
    assert either == {r["method"] for r in rows if r["finetune"] == "own"}
    there = {r["method"] for r in rows if r["finetune"] == "published"}
    assert there == either - {UNREFINED, ZERO_REFINED}
    learned = {(r["method"], r["finetune"]) for r in rows if r["learned"]}
    assert learned == {("prediction", "own"), (ZERO_REFINED, "own")}
    assert {r["learned"] for r in rows if r["method"] == ZERO_REFINED} == {0, 1}
    assert {r["epoch"] for r in rows if r["method"] == "pix2pix"} == {1, 3}
    assert {r["epoch"] for r in rows if r["method"] == "E²GAN" and r["seed"] == 1} == {0, 3}


def test_what_is_compared_is_held_out_and_drawn_before_anything_is_seen(
    run: RunDir, config: Config
) -> None:
    splits = {c.concept_id: c.split for c in load_concepts(run)}
    everything, scratch = chosen(config, run)
    assert len(scratch) == 2 and scratch == everything[:2]
    assert {splits[i] for i in everything} == {"test"}
    assert (everything, scratch) == chosen(config, run)
    recorded = run.read_json("comparison/concepts.json")
    assert recorded == {"compared": everything, "from_scratch": scratch}


def test_scores_are_those_of_the_pictures(run: RunDir, actor: CompareMethods) -> None:
    """Identity by hand; and the prediction's first row is the served adapter's."""
    concept_id = chosen(actor.config, run)[0][0]
    judged = actor.scorer.judged(actor.concepts[concept_id])
    a, b = (x.numpy().astype(np.float64) / 127.5 for x in (judged.source, judged.edited))
    rows = [r for r in rows_of(run) if r["concept_id"] == concept_id and r["seed"] == 0]
    identity = next(r for r in rows if r["method"] == IDENTITY)
    # a float32 mean
    assert identity["l1"] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    pictures = run.read_table("comparison/pictures.parquet").to_pylist()
    truth = [p for p in pictures if p["concept_id"] == concept_id and p["method"] == "ground truth"]
    shown = torch.from_numpy(decode_image(truth[0]["image"])).permute(2, 0, 1)
    assert truth[0]["image_id"] == judged.ids[0] and torch.equal(shown, judged.edited[0])


def test_what_was_planned_is_what_was_done(run: RunDir, config: Config) -> None:
    """Images that each kind of training has seen, and pictures that were drawn, by the rows."""
    work = compare_work(config, Shapes(config), concept_counts(config)).work
    planned = {w.rate: w.count for w in work}
    rows = [r for r in rows_of(run) if r["method"] != IDENTITY]
    done: Counter[str] = Counter(draw=sum(r["n"] for r in rows))
    for row in rows:
        if row["epoch"] != row["epochs"]:
            continue
        if row["method"] in BASELINES:
            done[row["method"]] += row["epochs"] * row["images"]
        elif row["method"] in ("E²GAN", "prediction, E²GAN’s budget"):
            done["collect"] += row["step"] * config.gans.batch
        else:
            done["finetune"] += row["step"] * config.adapt.batch
    assert {k: planned[k] for k in done} == done


def test_what_was_trained_is_counted(run: RunDir) -> None:
    ends = {r["method"]: r for r in rows_of(run) if r["epoch"] == r["epochs"]}
    adapter = ends["prediction"]
    assert adapter["trainable"] < adapter["total"] < ends["E²GAN"]["training_flops"]
    for method in BASELINES:
        assert ends[method]["trainable"] == ends[method]["total"] > 0
        assert ends[method]["training_flops"] > ends[method]["image_flops"] > 0
    assert ends["E²GAN"]["training_flops"] > adapter["training_flops"]
    assert ends[IDENTITY]["training_flops"] == 0


def test_seconds_are_those_of_the_serial_pass(run: RunDir) -> None:
    times = run.read_json("comparison/times.json")["seconds"]
    timed = {"predict", "finetune", "finetune, published", "learned step", "E²GAN", *BASELINES}
    assert set(times) == timed | {E2GAN_BY_OURS}
    assert all(v > 0 for v in times.values())
    for row in rows_of(run):
        assert row["seconds"] == pytest.approx(spent(row, times))
    by = {(r["method"], r["epoch"]): r["seconds"] for r in rows_of(run)}
    assert by["zero LoRA", 0] == 0 and by["prediction", 0] == pytest.approx(times["predict"])
    assert by["pix2pix", 3] == pytest.approx(3 * times["pix2pix"])
    assert by[E2GAN_BY_OURS, 3] == pytest.approx(3 * times[E2GAN_BY_OURS])
    last = next(r for r in rows_of(run) if (r["method"], r["epoch"]) == (ZERO_REFINED, 2))
    adam = 2 * (last["step"] - 1) / last["step"] * times["finetune"]
    assert last["seconds"] == pytest.approx(times["learned step"] + adam)


def test_a_method_that_saw_a_judged_image_fails_the_run(
    run: RunDir, actor: CompareMethods, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = actor.concepts[chosen(actor.config, run)[0][0]]
    judged = actor.scorer.judged(concept)
    leaky = actor.data(concept.concept_id)
    leaky.source[0] = judged.source[5]
    monkeypatch.setattr(actor, "data", lambda *_: leaky)
    for job in (
        lambda: actor.adapting("x", concept, 0, []),
        lambda: actor.from_scratch("x", concept, "pix2pix", 0, []),
    ):
        with pytest.raises(UnfairError, match="was trained on 1 of the 8 images"):
            job()


def test_base_and_collection_saw_no_judged_image(run: RunDir, actor: CompareMethods) -> None:
    judged = actor.scorer.judged(actor.concepts[chosen(actor.config, run)[0][0]])
    unseen = set(digests(judged.source))
    for concept in load_concepts(run)[:5]:
        if run.exists(f"pairs/{concept.concept_id}.parquet"):
            for split in ("train", "val", "test"):
                assert not unseen & set(digests(actor.data(concept.concept_id, split).source))


def test_a_stopped_training_from_scratch_goes_on_where_it_was(
    run: RunDir, actor: CompareMethods, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = actor.concepts[chosen(config, run)[1][0]]
    whole = run.read_table(f"comparison/jobs/pix2pix/{concept.concept_id}/0.parquet").to_pylist()
    score, calls = Scorer.row, []

    def stops(self: Scorer, *arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, *arguments)

    job = f"again/{concept.concept_id}/0"
    monkeypatch.setattr(Scorer, "row", stops)
    with pytest.raises(KeyboardInterrupt):
        actor.from_scratch(job, concept, "pix2pix", 0, [])
    assert not run.exists(f"comparison/jobs/{job}.parquet")
    monkeypatch.setattr(Scorer, "row", score)
    trained: list[int] = []
    made = CompareMethods.scratch

    def watched(self: CompareMethods, *arguments: Any) -> Any:
        training = made(self, *arguments)
        train = training.train
        monkeypatch.setattr(training, "train", lambda e: (trained.append(training.epoch), train(e)))
        return training

    monkeypatch.setattr(CompareMethods, "scratch", watched)
    actor.from_scratch(job, concept, "pix2pix", 0, [])
    assert trained == [1]  # the first epoch was not trained again
    again = run.read_table(f"comparison/jobs/{job}.parquet").to_pylist()
    assert [{**r, "seconds": 0} for r in again] == [{**r, "seconds": 0} for r in whole]
    for end in ("state", "partial.parquet"):
        assert not run.exists(f"comparison/jobs/{job}.{end}")


def test_a_diverging_method_is_an_error_row(
    run: RunDir, actor: CompareMethods, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = actor.concepts[chosen(config, run)[1][0]]
    made = CompareMethods.scratch

    def poisoned(self: CompareMethods, *arguments: Any) -> Any:
        training = made(self, *arguments)
        with torch.no_grad():
            next(iter(training.generator.parameters())).fill_(float("nan"))
        return training

    monkeypatch.setattr(CompareMethods, "scratch", poisoned)
    errors: list[str] = []
    actor.from_scratch(f"bad/{concept.concept_id}/0", concept, "pix2pix", 0, errors)
    assert len(errors) == 1 and "pix2pix, seed 0" in errors[0] and "epoch 1" in errors[0]
    assert not run.exists(f"comparison/jobs/bad/{concept.concept_id}/0.parquet")


def test_jobs_are_the_long_ones_first(run: RunDir, config: Config) -> None:
    everything, scratch = chosen(config, run)
    found = jobs(config, run)
    first = found[: len(scratch) * len(BASELINES)]
    assert {j.split("/")[0] for j in first} == set(BASELINES)
    rest = found[len(first) :]
    assert len(rest) == len(everything) * config.repeats
    assert {j.split("/")[0] for j in rest} == {ADAPTING}


def test_the_page_and_the_report_show_it(run: RunDir) -> None:
    page = run.read("comparison/index.html").decode()
    report = run.read("report/index.html").decode()
    for text in (page, report):
        assert "Every method at its own budget" in text
        assert "659.8" not in text and "11 min" in text  # the paper's, in words
        assert "144.81" in text and "What differs from the paper’s table" in text
        assert 'aria-label="score by epoch and by seconds"' in text
        assert "pix2pix-zero-distilled" in text
    for name in ("curves.png", "pictures.png"):
        assert run.read(f"comparison/{name}")[:8] == b"\x89PNG\r\n\x1a\n"
    summary = run.read_json("comparison/summary.json")
    assert run.read("comparison/table.md").decode() == markdown(summary)


def test_again_it_is_skipped(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with ray_session(load_config(words)):
        assert main(["compare", *words]) == 0
    assert "compare: finished earlier" in capfd.readouterr().err


def test_folder_runs_are_judged_on_their_test_split(tmp_path: Path) -> None:
    from pipelines.stages.judging import Judge

    folder = load_config(["preset=tiny", "images.source=folder", f"images.path={tmp_path}"])
    assert not Judge(folder, RunDir(str(tmp_path))).fresh
