"""A finished run in one file: it answers as the run did, and is refused when it is not whole."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modeling.targets.lora import CONFIG_FILE
from pipelines import Run
from pipelines.__main__ import main
from pipelines.portable_run import PortableRunError, import_run
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError

Files = dict[str, bytes]


def held_in(file: Path) -> Files:
    found = {}
    with tarfile.open(file, "r:xz") as archive:
        for member in archive:
            held = archive.extractfile(member)
            assert held is not None, member.name
            found[member.name] = held.read()
    return found


@pytest.fixture(scope="module")
def file(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("portable") / "new" / "run.tar.xz"
    assert main(["export-run", f"run_dir={run.uri}", f"file={made}"]) == 0
    return made


@pytest.fixture(scope="module")
def theirs(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("theirs") / "run"
    assert main(["import-run", f"file={file}", f"run_dir={folder}"]) == 0
    return Run(str(folder))


def test_it_answers_as_the_run_did(run: RunDir, theirs: Run) -> None:
    """Half precision moves no pixel by more than 1/255."""
    ours = Run(run.uri)
    shape = (16, ours.size, ours.size, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for text in ("indigo hair", "a red background"):
        made = [
            np.stack(used.translate(pictures, used.predict(text))).astype(int)
            for used in (ours, theirs)
        ]
        assert np.abs(made[0] - made[1]).max() <= 1
        assert np.abs(made[0] - pictures).max() > 1
    assert theirs.concepts() == ours.concepts()
    near = [used.nearest("indigo hair", 3) for used in (ours, theirs)]
    assert [n.text for n in near[0]] == [n.text for n in near[1]]


def test_it_fine_tunes(theirs: Run) -> None:
    shape = (12, theirs.size, theirs.size, 3)
    pictures = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    tuned = theirs.finetune("indigo hair", [(p, 255 - p) for p in pictures], steps=5)
    assert tuned.outcome is not None and len(tuned.outcome.losses) == 5


def test_the_refiner_travels_if_it_is_wanted(run: RunDir, theirs: Run, tmp_path: Path) -> None:
    assert Run(run.uri).config.adapt.learned_steps > 0
    assert theirs.config.adapt.learned_steps == 0 and theirs.config.adapt.basis
    words = [f"run_dir={run.uri}", f"file={tmp_path / 'run.tar.xz'}", "refiner=true"]
    assert main(["export-run", *words]) == 0
    again = RunDir(str(tmp_path / "again"))
    import_run(tmp_path / "run.tar.xz", again)
    assert Run(again.uri).config.adapt == Run(run.uri).config.adapt
    assert again.files("generator/refiner") == run.files("generator/refiner") != []


def test_adapters_travel_with_it(own_run: RunDir, tmp_path: Path) -> None:
    adapter = Run(own_run.uri).predict("sepia")
    files = adapter.files()
    for i in range(12):
        folder = f"adapters/concept-{i:02}"
        own_run.write_files(folder, files | {"metrics.json": b"{}"}, last="metrics.json")
        own_run.write_files(f"{folder}/step-000004", files, last=CONFIG_FILE)
    words = [f"run_dir={own_run.uri}", f"file={tmp_path / 'run.tar.xz'}", "adapters=3"]
    assert main(["export-run", *words]) == 0
    again = RunDir(str(tmp_path / "again"))
    import_run(tmp_path / "run.tar.xz", again)
    names = again.files("adapters")
    assert len(names) == 9 and all(again.read(n) == own_run.read(n) for n in names)


def test_equal_runs_give_equal_files(run: RunDir, file: Path, tmp_path: Path) -> None:
    assert main(["export-run", f"run_dir={run.uri}", f"file={tmp_path / 'b.tar.xz'}"]) == 0
    assert (tmp_path / "b.tar.xz").read_bytes() == file.read_bytes()


def test_it_does_not_say_where_the_run_lay(run: RunDir, file: Path) -> None:
    assert not [name for name, data in held_in(file).items() if run.uri.encode() in data]


def test_it_is_used_and_not_continued(theirs: Run) -> None:
    with pytest.raises(StageError, match="needs stage concepts"):
        from pipelines.runtime.stage_graph import run_stage

        run_stage(theirs.config, RunDir(theirs.uri), "adapt")


def rewritten(file: Path, to: Path, change: Callable[[Files], None]) -> Path:
    files = held_in(file)
    change(files)
    with tarfile.open(to, "w:xz") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return to


def other_version(files: Files) -> None:
    files["manifest.json"] = json.dumps(
        json.loads(files["manifest.json"]) | {"version": 2}
    ).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.update({"base/base.json": b"{}"}), "base/base.json is damaged"),
        (lambda f: f.pop("weights/layout.json"), "other files than its manifest names"),
        (lambda f: f.update({"more": b""}), "other files than its manifest names"),
        (lambda f: f.pop("manifest.json"), "has no manifest"),
        (lambda f: f.update({"manifest.json": b"[]"}), "has no manifest"),
        (other_version, "this code reads"),
        (lambda f: f.update({"../evil": b""}), "outside of the run"),
        (lambda f: f.update({"/evil": b""}), "which no run has"),
    ],
)
def test_a_changed_file_is_refused(
    file: Path, tmp_path: Path, change: Callable[[Files], None], reason: str
) -> None:
    mine = rewritten(file, tmp_path / "changed.tar.xz", change)
    target = RunDir(str(tmp_path / "run"))
    with pytest.raises(PortableRunError, match=reason):
        import_run(mine, target)
    assert target.files("") == [] and not (tmp_path / "evil").exists()


def test_what_is_no_such_file(
    file: Path, run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-1000])
    (tmp_path / "text").write_text("no archive")
    for name in ("cut", "text", "missing"):
        words = [f"file={tmp_path / name}", f"run_dir={tmp_path / 'run'}"]
        assert main(["import-run", *words]) == 1
        said = capsys.readouterr().err
        assert said.startswith("denoised-weights: ") and str(tmp_path / name) in said
    assert main(["import-run", f"file={file}", f"run_dir={run.uri}"]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["export-run", f"run_dir={run.uri}", f"file={file}"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export-run", f"run_dir={tmp_path}", f"file={tmp_path / 'x'}"]) == 1
    assert "export-run needs stage base" in capsys.readouterr().err
