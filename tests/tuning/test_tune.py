"""Studies by Ray Tune on a finished run: resume after a kill, failures, the ends' scores."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.targets.adapter_training import to_unit, translate_all
from modeling.targets.families import frozen_target
from modeling.targets.lora import AdaptedTranslator, Adapter, stack
from modeling.targets.shapes import TranslatorConfig
from modeling.targets.translator import Translator
from modeling.text import TextEmbedding
from modeling.weights.interface import WeightGenerator
from pipelines.__main__ import main
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.report.studies import studies, studies_section
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts, load_text
from pipelines.stages.contenders import PREDICTION
from pipelines.stages.gans import load_adapter
from pipelines.stages.judging import Judge
from pipelines.stages.weight_generators import generator_config
from tests.conftest import Finished
from tests.driver import Driver, descendants
from tests.rounding import rounding
from tuning import overfit_outcome, trials
from tuning.overfit import Overfitting
from tuning.study import Paper, StudyError, load_study
from tuning.subjects import TRUTH, ZERO, Subject, chosen

SIZES = """
axis: block size
why: no scheduler, for a test
trial: overfit
seeds: 2
overfit: {concepts: [art], points: 2}
keys: [generator.blocks_per_concept=0, generator.batch=1, generator.steps=6]
variants:
  "64": [weights.block_size=64]
  "128": [weights.block_size=128]
  too fast: [generator.lr=1e30]
paper:
  heads: [FID <grey hair>]
  rows: {ground truth: ["89.04"], "128": ["107.67"]}
  note: others
"""
RATES = """
axis: learning rate
why: a test
trial: overfit
scheduler: asha
grace: 0.25
overfit: {concepts: [art], points: 4}
seeds: 1
space: {generator.lr: [0.0001, 0.001, 0.003, 0.01]} # in eight steps none helps: the best first
keys: [generator.blocks_per_concept=0, generator.batch=1, generator.steps=8]
"""

TIMES = """
axis: t
why: a test
seeds: 2
keys:
  - evaluate.weights_only=false
  - evaluate.controls=[ridge]
space: {adapt.t: [999, 900]}
"""


@dataclass(frozen=True)
class Studied:
    """A run with the study SIZES, killed after its first trial and started again, when a trial's
    process is killed."""

    folder: Path
    words: list[str]
    early: dict[str, int]
    """Records that were there when it was killed, with the time they were written."""
    output: str

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "tuning/sizes/summary.json").read_text()))


def written(folder: Path) -> dict[str, int]:
    """Trial → when its finished record was written."""
    out = {}
    for path in folder.glob("tuning/trials/*/record.json"):
        if json.loads(path.read_text())["end"]:
            out[path.parent.name] = path.stat().st_mtime_ns
    return out


def kill_a_trial(driver: Driver) -> bool:
    """Whether one was at work."""
    for process in descendants([driver.process.pid]):
        if process.name.startswith("ray::ResourceTrainable"):
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


@pytest.fixture(scope="module")
def studied(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    home = tmp_path_factory.mktemp("studied")
    shutil.copytree(finished.folder, home / "run")
    (home / "sizes.yaml").write_text(SIZES)
    words = ["tune", f"study={home / 'sizes.yaml'}", f"run_dir={home / 'run'}"]
    words.append("max_error_fraction=0.4")
    with Driver(words, home) as driver:
        driver.wait_until(lambda: bool(written(home / "run")))
        driver.kill()
    early = written(home / "run")
    with Driver(words, home) as driver:
        driver.wait_until(lambda: kill_a_trial(driver))
        output = driver.wait()
    yield Studied(home / "run", words, early, output)


def test_a_killed_study_goes_on_with_what_is_missing(studied: Studied) -> None:
    now = written(studied.folder)
    assert 1 <= len(studied.early) < 4 and len(now) == 4
    assert f"6 trials, {len(studied.early)} finished earlier" in studied.output
    assert {k: now[k] for k in studied.early} == studied.early
    assert "a trial's process died, it is run again" in studied.output
    rows = RunDir(str(studied.folder)).read_table("tuning/sizes/trials.parquet").to_pylist()
    assert {(r["variant"], r["seed"], r["step"]) for r in rows} == {
        (v, s, t) for v in ("64", "128") for s in (0, 1) for t in (3, 6)
    }
    assert studied.summary["order"] == ["64", "128"]
    assert studied.summary["variants"]["128"]["gap"]["n"] == 2
    assert studied.summary["variants"]["128"]["generation"]["seconds"] > 0


def test_a_failing_trial_is_recorded_and_the_others_go_on(studied: Studied) -> None:
    failed = studied.summary["failed"]
    assert [f["trial"].split(",")[0] for f in failed] == ["too fast"] * 2
    assert all("loss is" in f["reason"] and "\n" not in f["reason"] for f in failed)
    errors = RunDir(str(studied.folder)).read_table("errors/tune-sizes.parquet").to_pylist()
    assert [e["reason"] for e in errors] == [f["reason"] for f in failed]


def test_the_ends_are_the_trained_adapter_and_zero_lora(studied: Studied) -> None:
    run = RunDir(str(studied.folder))
    config = load_config(["preset=tiny", "run_dir=" + str(studied.folder)])
    translator, _ = load_base(config, run)
    ((text, scores),) = studied.summary["ends"][TRUTH].items()
    concept = next(c for c in load_concepts(run) if c.text == text)
    judged = Judge(config, run).judged(concept, 0, config.evaluate.images)

    def l1(adapter: Adapter) -> float:
        tokens = [load_text(run)[concept.concept_id].tokens]
        made = translate_all(translator, stack([adapter]), judged.source, tokens)[0]
        return float((to_unit(made) - to_unit(judged.edited)).abs().mean())

    own = load_adapter(run, f"adapters/{concept.concept_id}")
    # one colour in a hundred may be rounded the other way in another process
    assert scores["l1"] == pytest.approx(l1(own), abs=1e-4)
    zero = studied.summary["ends"][ZERO][text]
    assert zero["l1"] == pytest.approx(l1(translator.zero_adapter()), abs=1e-4)
    assert scores["n"] == zero["n"] == len(judged.ids) and scores["kid"] is not None
    names = [row[0] for row in studied.summary["table"]["rows"]]
    assert names == [TRUTH, ZERO, "64", "128"]
    assert studied.summary["table"]["rows"][0][-1] == "89.04"


def test_the_report_shows_a_study(studied: Studied) -> None:
    (shown,) = studies(RunDir(str(studied.folder)))
    page = studies_section([shown])
    assert "paper: FID &lt;grey hair&gt;" in page and "107.67" in page and "others" in page
    assert "2 trials failed" in page and "data:image/png;base64,iVBOR" in page
    assert studies_section([]) == ""


def test_asha_stops_trials_and_says_which(studied: Studied, tmp_path: Path) -> None:
    (tmp_path / "rates.yaml").write_text(RATES)
    words = ["tune", f"study={tmp_path / 'rates.yaml'}", f"run_dir={studied.folder}"]
    assert main(words) == 0
    summary = json.loads((studied.folder / "tuning/rates/summary.json").read_text())
    ends = {v: (p["finished"], p["stopped"]) for v, p in summary["variants"].items()}
    assert len(ends) == 4 and all(sum(e) == 1 for e in ends.values())
    assert 1 <= sum(stopped for _, stopped in ends.values()) < 4


def test_a_run_trial_branches_the_run_and_is_scored_on_validation_concepts(
    finished: Finished, tmp_path: Path
) -> None:
    finished.copy(tmp_path / "run")
    before = written_markers(tmp_path / "run")
    (tmp_path / "times.yaml").write_text(TIMES)
    assert main(["tune", f"study={tmp_path / 'times.yaml'}", f"run_dir={tmp_path / 'run'}"]) == 0
    run = RunDir(str(tmp_path / "run"))
    summary = run.read_json("tuning/times/summary.json")
    assert summary["failed"] == [] and len(summary["order"]) == 2
    rows = run.read_table("tuning/times/trials.parquet").to_pylist()
    (validation,) = [c for c in load_concepts(run) if c.split == "val"]
    assert {r["concept_id"] for r in rows} == {validation.concept_id}
    first, second = (
        {
            (r["method"], r["step"]): r["l1"]
            for r in rows
            if r["variant"] == v and r["method"] in ("ridge", PREDICTION)
        }
        for v in summary["order"]
    )
    # t is the prediction's alone, and changes what it draws
    assert first["ridge", 0] == second["ridge", 0]
    assert first[PREDICTION, 0] != second[PREDICTION, 0]
    # what no variant changes is shared, as hard links; the run itself was not touched
    branches = sorted(p for p in tmp_path.glob("run-times-*") if p.is_dir())
    assert len(branches) == 2
    for branch in branches:
        linked = branch / "base/translator.safetensors"
        assert linked.samefile(tmp_path / "run/base/translator.safetensors")
    assert written_markers(tmp_path / "run") == before


def written_markers(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("stages/*.json")}


def test_impossible_studies_are_refused_before_any_trial(
    studied: Studied, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    these = ["study=block_size", f"run_dir={studied.folder}", "overfit.concepts=[art]"]
    for words, message in (
        ([], "tune needs study"),
        (["study=nix", "run_dir=x"], "no study 'nix'"),
        (["study=block_size", f"run_dir={tmp_path / 'none'}"], "holds no run to study"),
        ([*these, "seed=9"], "shares no stage"),
        ([*these, "base.steps=9"], "it shares concepts, pairs"),
        ([*these, "weights.x=9"], "unknown key"),
        ([*these, "seeds=0"], "must be at least 1"),
    ):
        assert main(["tune", *words]) == 2
        assert message in capsys.readouterr().err


def test_concepts_by_text_id_or_category(finished: Finished) -> None:
    run = RunDir(str(finished.folder))
    (one,) = chosen(run, ["art"], 0)
    assert one.category == "art" and one.split == "train"
    assert chosen(run, [one.text], 0) == chosen(run, [one.concept_id], 5) == [one]
    with pytest.raises(ConfigError, match="'a cloud' is neither"):
        chosen(run, ["a cloud"], 0)
    with pytest.raises(ConfigError, match="the same concept twice"):
        chosen(run, [one.text, one.concept_id], 0)


def test_a_category_whose_adapters_have_learned_nothing(finished: Finished, tmp_path: Path) -> None:
    finished.copy(tmp_path / "run")
    for path in (tmp_path / "run").glob("adapters/*/metrics.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "l1": 1.0}))
    with pytest.raises(ConfigError, match="category 'art' does better than nothing"):
        chosen(RunDir(str(tmp_path / "run")), ["art"], 0)


class Known(WeightGenerator):
    """Predicts w itself, the true one."""

    joint = False

    def __init__(self, trial: Overfitting) -> None:
        super().__init__(generator_config(trial.config, trial.layout.n_blocks, 8))
        self.true = trial.normalisation.apply(trial.raw)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, blocks: torch.Tensor, *_: Any) -> Any:
        return self.true[blocks][None]


def subject_of(translator: AdaptedTranslator, seed: int) -> Subject:
    """A random adapter; two random images."""
    rng = torch.Generator().manual_seed(seed)
    adapter = {
        k: v + 0.1 * torch.randn(v.shape, generator=rng)
        for k, v in translator.zero_adapter().items()
    }
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=rng)
    embedding = TextEmbedding(torch.randn(3, 8, generator=rng), torch.randn(8, generator=rng))
    scores = {TRUTH: {"l1": 0.1}, ZERO: {"l1": 0.5}}
    return Subject("x", "x", embedding, adapter, images, 255 - images, None, None, None, scores)


def translator_of(rank: int) -> AdaptedTranslator:
    torch.manual_seed(0)
    shape = TranslatorConfig(width=8, downs=1, edge_kernel=3, heads=2, text_dim=8)
    network = frozen_target(shape)
    network.load_state_dict(Translator(shape).eval().freeze_statistics().state_dict())
    return AdaptedTranslator(network, rank, {}, 0)


@settings(deadline=None, max_examples=15)
@given(
    size=st.sampled_from([8, 60, 128, 256, 512]),
    rule=st.sampled_from([1, 2, 3]),
    rank=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_exact_blocks_give_the_adapter_back(size: int, rule: int, rank: int, seed: int) -> None:
    words = [f"weights.block_size={size}", f"weights.grouping={rule}", f"lora.rank={rank}"]
    config = load_config(["preset=tiny", *words])
    translator = translator_of(rank)
    subject = subject_of(translator, seed)
    trial = Overfitting(config, translator, subject, seed)
    predicted = trial.predict(Known(trial))
    assert trial.rmse(predicted) == 0
    back = trial.written_back(predicted)
    translator.check(back)
    for key, value in subject.adapter.items():
        # less the centre (no larger than the largest), divided, multiplied, and back
        torch.testing.assert_close(back[key], value, rtol=0, atol=rounding(8, value), msg=key)


def test_a_subject_survives_writing(tmp_path: Path) -> None:
    subject = subject_of(translator_of(1), 3)
    subject.write(RunDir(str(tmp_path)), "here")
    back = Subject.read(RunDir(str(tmp_path)), "here")
    assert back.scores == subject.scores and torch.equal(back.source, subject.source)
    assert all(torch.equal(back.adapter[k], v) for k, v in subject.adapter.items())
    assert (back.gap(0.1), back.gap(0.5), back.gap(0.3)) == pytest.approx((0, 1, 0.5))


def outcome_row(variant: str, seed: int, step: int, gap: float, end: str) -> dict[str, Any]:
    about = {"concept_id": "x", "text": "x", "variant": variant, "end": end}
    scores = {"l1": gap, "kid": None, "fd": None, "n": 4, "fd_n": None, "rmse": gap}
    return {**about, **scores, "seed": seed, "step": step, "gap": gap}


def test_only_finished_trials_count_and_seeds_are_paired() -> None:
    ends = {
        n: {"x": {"concept_id": "x", "l1": v, "n": 4, "kid": None, "fd": None, "fd_n": None}}
        for n, v in ((TRUTH, 0.0), (ZERO, 1.0))
    }
    rows = [
        *(
            outcome_row("a", s, t, 0.8 - s / 10 - t / 10, "finished")
            for s in (0, 1)
            for t in (1, 2)
        ),
        outcome_row("b", 0, 1, 0.5, "finished"),
        outcome_row("b", 0, 2, 0.4, "finished"),
        outcome_row("b", 1, 1, 0.1, "stopped"),
    ]
    points = overfit_outcome.summarise(rows, ends)
    assert points["a"]["gap"]["mean"] == pytest.approx(0.55) and points["a"]["gap"]["n"] == 2
    assert points["b"]["gap"]["mean"] == pytest.approx(0.4)
    assert points["b"]["against_first"]["mean"] == pytest.approx(0.4 - 0.6)
    assert (points["b"]["finished"], points["b"]["stopped"]) == (1, 1)
    _, cells = overfit_outcome.table("axis", points, ends, {}, Paper())
    assert [c[0] for c in cells] == [TRUTH, ZERO, "a", "b (1 stopped early)"]
    ends[ZERO]["x"]["n"] = 5
    with pytest.raises(StudyError, match="must not be compared"):
        overfit_outcome.summarise(rows, ends)


def test_schedulers_compare_what_means_the_same_on_every_concept() -> None:
    study = load_study("learning_rate")
    asha = trials.scheduler(study, 200)
    assert (asha._max_t, asha._time_attr) == (200, "step")
    assert trials.scheduler(load_study("block_size"), 200) is None
    median = trials.scheduler(load_study("learning_rate", ["scheduler=median"]), 200)
    assert median._grace_period == 50
