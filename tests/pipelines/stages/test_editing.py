"""Stage `pairs` with editors that fail, reject, die and compete; without Ray but for one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling.concepts.concept import Concept
from modeling.concepts.table import to_table
from modeling.editors.interface import EditError, EditResult, Source
from modeling.images import decode_image
from pipelines.__main__ import main
from pipelines.config import load
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_table import StageError
from pipelines.stages import editing, pairs
from pipelines.stages.concepts import load_concepts
from pipelines.stages.editing import EditConcept, file_of, load_about
from tests import tiny_diffusion
from tests.tiny_clip import save_clip

IMAGES = 20


def concept(name: str, **changes: Any) -> Concept:
    return replace(Concept(name, name.replace("-", " "), "art", (), "train"), **changes)


class Inverter:
    """Inverts colours; the number of edits it has made is seen, and it can be told to fail."""

    def __init__(self, name: str = "img2img") -> None:
        self.name = name
        self.seen: list[str] = []
        self.fails: set[str] = set()
        self.dies_after = 10**9

    def supports(self, family: str) -> bool:
        return True

    def edit(self, sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        if len(self.seen) >= self.dies_after:
            raise KeyboardInterrupt
        self.seen += [s.image_id for s in sources]
        return [
            EditError("no picture")
            if s.image_id in self.fails
            else EditResult(255 - s.image, {"change": float(s.image.mean()) / 255})
            for s in sources
        ]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path))


@pytest.fixture
def editors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Inverter]:
    """The editors that are made in this process, by name."""
    made = {n: Inverter(n) for n in ("img2img", "other")}
    monkeypatch.setattr(editing, "make_editor", lambda name, **options: made[name])
    return made


def configured(run: RunDir, *words: str) -> Config:
    count = f"images.count={IMAGES}"
    return load_config(["preset=tiny", f"run_dir={run.uri}", "editor=img2img", count, *words])


def actor(run: RunDir, *words: str, kind: type = EditConcept) -> Any:
    return kind(config_tree.to_dict(configured(run, *words)), run, "img2img")


def row(*concepts: Concept) -> dict[str, Any]:
    return {"concept": [json.dumps(asdict(c)) for c in concepts]}


def test_rows_errors_and_counts(run: RunDir, editors: dict[str, Inverter]) -> None:
    editor = editors["img2img"]
    edit = actor(run)
    editor.fails = {"avatar-0000003"}
    out = edit(row(concept("a"), concept("b", adapter=False)))
    about = json.loads(out["about"][0])
    assert about["errors"] == {"avatar-0000003": "no picture"} and about["dropped"] == ""
    assert sum(about["counts"].values()) == IMAGES - 1 and about["images"] == IMAGES
    assert load_about(run, "a") == about
    rows = run.read_table(file_of("a")).to_pylist()
    assert [r["image_id"] for r in rows] == sorted(edit.splits.keys() - {"avatar-0000003"})
    for r in rows:
        assert np.array_equal(decode_image(r["edited"]), 255 - decode_image(r["source"]))
    # a concept without an adapter gets images.paired training images, no others
    assert json.loads(out["about"][1])["images"] == 5
    assert json.loads(out["about"][1])["counts"].keys() == {"train"}


def test_a_dead_actor_loses_no_more_than_a_part(run: RunDir, editors: dict[str, Inverter]) -> None:
    editor = editors["img2img"]
    whole = actor(RunDir(run.uri + "/uninterrupted"), "editing.part=6")
    whole(row(concept("a")))
    editor.seen.clear()
    editor.dies_after = 12
    with pytest.raises(KeyboardInterrupt):
        actor(run, "editing.part=6")(row(concept("a")))
    first = list(editor.seen)
    assert len(run.files("editing/parts/a")) == 2 and load_about(run, "a") is None
    # one of the parts is damaged: only its pictures are made again
    (damaged, _) = run.files("editing/parts/a")
    run.write(damaged, run.read(damaged)[:-20])
    editor.seen.clear()
    editor.dies_after = 10**9
    actor(run, "editing.part=6")(row(concept("a")))
    assert len(editor.seen) == IMAGES - 6
    assert len(set(editor.seen) & set(first)) == 6
    assert run.files("editing/parts/a") == []
    same = whole.run_dir.read_table(file_of("a"))
    assert run.read_table(file_of("a")).equals(same)
    assert load_about(run, "a") == load_about(whole.run_dir, "a")


def test_a_damaged_file_is_made_again(run: RunDir, editors: dict[str, Inverter]) -> None:
    edit = actor(run)
    edit(row(concept("a")))
    sound = run.read(file_of("a"))
    run.write(file_of("a"), sound[:-10])
    assert load_about(run, "a") is None
    edit(row(concept("a")))
    assert run.read(file_of("a")) == sound


def test_pictures_below_the_least_score_are_left_out(
    run: RunDir, editors: dict[str, Inverter]
) -> None:
    scores = {i: float(s.image.mean()) / 255 for i, s in actor(run).sources.items()}
    least = sorted(scores.values())[4] + 1e-6
    edit = actor(run, f"editing.least.change={least}", "editing.least_images=0.7")
    about = json.loads(edit(row(concept("a")))["about"][0])
    assert set(about["rejected"]) == {i for i, s in scores.items() if s < least}
    assert all(w.startswith("change 0.") for w in about["rejected"].values())
    assert sum(about["counts"].values()) == IMAGES - 5 and about["dropped"] == ""
    edit = actor(run, f"editing.least.change={least}", "editing.least_images=0.8")
    about = json.loads(edit(row(concept("b")))["about"][0])
    assert about["dropped"] == "15 of 20 images are left, less than editing.least_images"


def stage(config: Config, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The stage, its actors called in this process."""

    def mapped(
        config: Config, kind: type, arguments: dict[str, Any], rows: list[Any], **_: Any
    ) -> Any:
        made = kind(**arguments)
        for one in rows:
            out = made({k: [v] for k, v in one.items()})
            yield {k: v[0] for k, v in out.items()}

    monkeypatch.setattr(editing, "map_actors", mapped)
    return pairs.run(config, run)


def write_concepts(run: RunDir, *names: str) -> None:
    run.write_table("concepts.parquet", to_table([concept(n) for n in names]))


def test_a_concept_without_pictures_is_dropped_not_fatal(
    run: RunDir, editors: dict[str, Inverter], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_concepts(run, "good", "bad")
    editor = editors["img2img"]
    usual = editor.edit

    def edit(sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        editor.fails = {s.image_id for s in sources} if concept.concept_id == "bad" else set()
        return usual(sources, concept)

    editor.edit = edit
    with pytest.raises(StageError, match="20 of 40 rows are bad"):
        stage(configured(run), run, monkeypatch)
    summary = stage(configured(run, "max_error_fraction=0.6"), run, monkeypatch)
    assert summary["dropped"] == 1 and summary["concepts"] == 1
    assert [c.concept_id for c in pairs.usable(run)] == ["good"]
    (reason,) = {r["dropped"] for r in run.read_table(pairs.INDEX).to_pylist()} - {""}
    assert reason == "it has no test images"


def judged(monkeypatch: pytest.MonkeyPatch, quality: dict[str, float]) -> None:
    """Scores that depend on the editor alone."""

    def init(self: Any, config: Any, run_dir: RunDir, editor: str) -> None:
        plain(self, config, run_dir, editor)
        part = {"direction": 1.0, "identity": 1.0, "quality": quality[editor]}
        self.scores = lambda sources, edits, text: [part] * len(edits)

    plain = editing.EditActor.__init__
    monkeypatch.setattr(editing.EditActor, "__init__", init)
    monkeypatch.setattr("modeling.editors.scores.EditScores.__init__", lambda self, *a, **k: None)


def test_the_best_candidate_edits_the_rest(
    run: RunDir, editors: dict[str, Inverter], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_concepts(run, "a", "b")
    judged(monkeypatch, {"img2img": 0.5, "other": 0.6})
    config = configured(run, "editing.pilots=4", "editing.clip=x")
    config.editing.candidates = ["img2img", "other"]
    config.editor = "best"
    monkeypatch.setattr(load, "check", lambda config: None)
    # "other" fails on two of the four pilots of everything: 0.6 · 2 / 4 < 0.5
    pilots = actor(run).train(4)
    editors["other"].fails = set(pilots[:2])
    stage(config, run, monkeypatch)
    choice = run.read_table("editing/choice.parquet").to_pylist()
    assert {(r["concept_id"], r["editor"]) for r in choice if r["chosen"]} == {
        ("a", "img2img"),
        ("b", "img2img"),
    }
    assert {r["editor"]: r["overall"] for r in choice} == {"img2img": 0.5, "other": 0.3}
    assert [r["failed"] for r in choice if r["editor"] == "other"] == [2, 2]
    assert editors["other"].seen == [*pilots, *pilots]
    assert len(editors["img2img"].seen) == 2 * (4 + IMAGES)
    assert {r["editor"] for r in run.read_table(file_of("a")).to_pylist()} == {"img2img"}
    # nothing is left to do
    for editor in editors.values():
        editor.seen.clear()
    stage(config, run, monkeypatch)
    assert not any(editor.seen for editor in editors.values())


def test_no_candidate_at_all(
    run: RunDir, editors: dict[str, Inverter], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_concepts(run, "a")
    config = configured(run, "editing.pilots=4", "max_error_fraction=1")
    config.editing.candidates, config.editor = ["img2img"], "best"
    monkeypatch.setattr(load, "check", lambda config: None)
    editors["img2img"].fails = set(actor(run).splits)
    summary = stage(config, run, monkeypatch)
    assert summary["dropped"] == 1 and pairs.usable(run) == []
    (error,) = run.read_table("errors/pairs.parquet").to_pylist()
    assert error["key"] == "a" and "no candidate editor" in error["reason"]
    (row,) = run.read_table("editing/choice.parquet").to_pylist()
    assert row["error"] == "no picture" and not row["chosen"]


def test_two_diffusion_models_compete_through_ray(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real loading code, the real scores, each editor in its own pool of processes."""
    models = {
        "img2img": tiny_diffusion.stable_diffusion(tmp_path / "models"),
        "instruct_pix2pix": tiny_diffusion.instruct_pix2pix(tmp_path / "models"),
    }
    run = RunDir(str(tmp_path / "run"))
    words = [
        "preset=tiny",
        f"run_dir={run.uri}",
        "editor=best",
        "editing.candidates=[img2img,instruct_pix2pix]",
        "editing.pilots=2",
        "editing.part=10",
        f"editing.clip={save_clip(tmp_path)}",
        "images.count=12",
        "concepts.families=[hair]",
        "concepts.combine=[]",
        "concepts.train_combinations=0",
        "concepts.test_combinations=0",
        "concepts.paired_combinations=0",
        "concepts.paired_families=[]",
        *(f"editing.models.{name}={path}" for name, path in models.items()),
        *(f"editing.steps.{name}=3" for name in models),
    ]
    with ray_session(load_config(words)):
        assert main(["concepts", *words]) == 0
        assert main(["pairs", *words]) == 0
        concepts = [c for c in load_concepts(run) if c.origin != "paraphrased"]
        choice = run.read_table("editing/choice.parquet").to_pylist()
        chosen = {r["concept_id"]: r["editor"] for r in choice if r["chosen"]}
        assert set(chosen) == {c.concept_id for c in concepts} and len(choice) == 2 * len(concepts)
        for c in concepts:
            reports = [r for r in choice if r["concept_id"] == c.concept_id]
            assert chosen[c.concept_id] == max(reports, key=lambda r: r["overall"])["editor"]
            rows = run.read_table(file_of(c.concept_id)).to_pylist()
            assert len(rows) == 12 and {r["editor"] for r in rows} == {chosen[c.concept_id]}
            assert json.loads(rows[0]["scores"]).keys() == {
                "change",
                "direction",
                "identity",
                "quality",
            }
        assert main(["pairs", *words]) == 0
        assert "pairs: finished earlier" in capfd.readouterr().err
        # a model that is not there: one line that names the key
        words = [w for w in words if not w.startswith("editing.models.instruct")]
        assert main(["pairs", *words, "redo=[pairs]"]) == 1
        assert "editing.models.instruct_pix2pix=FOLDER" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["editor=best"], "give both"),
        (["editor=img2img", "editing.least.quality=0.3"], "needs editing.clip"),
        (["editor=img2img", "editing.least.beauty=0.3"], "must be one of change"),
        (["editor=img2img", "editing.models.filter=x"], "editing.models.filter: no such editor"),
        (["editor=img2img", "editing.prompts.art=red"], "must contain {text}"),
        (["editor=img2img", "editing.prompts.arts=x"], "must be one of facial"),
        (["editing.clip=x"], "the editor is an exact one"),
        (
            ["editor=img2img", "editing.strength.img2img=1.5"],
            "strength.img2img=1.5: must be at most 1",
        ),
        (["editor=img2img", "editing.steps.img2img=many"], "must be a whole number"),
        (["editor=img2img", "editing.candidates=[avatar]"], "must be one of img2img"),
        (["editor=img2img", "editing.exponents.change=1"], "must be one of direction"),
        (["editor=img2img", "cluster.editor_gpus.nobody=1"], "no such editor"),
        (["verify=never"], "must be one of content, size"),
    ],
)
def test_configurations_that_cannot_be(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(["preset=tiny", *words])
