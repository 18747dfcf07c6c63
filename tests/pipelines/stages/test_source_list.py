"""A run keeps the pictures that it began with, and says what became of their folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from modeling.concepts.concept import Concept
from modeling.images import encode_png
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.tree import to_dict
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import redo
from pipelines.runtime.stage_table import SOURCES, StageError
from pipelines.stages.choosing_editors import PilotEditor
from pipelines.stages.editing import EditActor, EditConcept, edit_with, file_of
from pipelines.stages.source_list import record_sources, sources_of

COUNT = 12
CONCEPT = Concept("grey", "in grey", "art", ("monochrome",), "train", edit={"filter": "grayscale"})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(COUNT):
        picture(folder / f"{i:02}.png", i)
    return folder


def picture(path: Path, value: int) -> None:
    path.write_bytes(encode_png(np.full((20, 20, 3), value, np.uint8)))


def config_of(photos: Path, count: int = COUNT) -> Config:
    run = photos.parent / "run"
    folder = [f"run_dir={run}", "images.source=folder", f"images.path={photos}"]
    return load_config(["preset=tiny", *folder, f"images.count={count}"])


def begun(photos: Path) -> tuple[Config, RunDir, dict[str, str]]:
    config = config_of(photos)
    run = RunDir(config.run_dir)
    return config, run, record_sources(config, run)


def test_a_list_with_sizes_and_hashes(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("._00.png", "notes.txt", "99.png"):
        picture(photos / name, 1)
    (photos / "deeper").mkdir()
    _, run, listed = begun(photos)
    rows = run.read_table(SOURCES).to_pylist()
    assert [r["image_id"] for r in rows] == list(listed) == [f"{i:02}.png" for i in range(COUNT)]
    assert all(r["bytes"] == (photos / r["image_id"]).stat().st_size for r in rows)
    assert len(set(listed.values())) == COUNT and all(len(h) == 64 for h in listed.values())
    told = capsys.readouterr().err
    assert f"images: {COUNT} pictures of {photos}; left out: " in told
    for part in ("1 hidden", "1 .txt", "1 sub-folder", f"1 beyond images.count={COUNT}"):
        assert part in told


@pytest.mark.parametrize("name", ["000.png", "zz.png"])
def test_an_added_picture_is_left_out_and_said(
    photos: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run, listed = begun(photos)
    picture(photos / name, 200)
    assert record_sources(config, run) == listed == sources_of(config, run)
    assert f"images: 1 more in {photos} than when this run began" in capsys.readouterr().err
    assert list(EditActor(to_dict(config), run, "filter").sources) == list(listed)


def remove(path: Path) -> None:
    path.unlink()


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove_all(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (remove, r"1 of the 12 pictures .* is gone \(05\.png\)"),
        (make_folder, r"is gone \(05\.png\)"),
        (lengthen, r"1 of the 12 pictures .* is changed \(05\.png\)"),
        (remove_all, "does not exist"),
    ],
)
def test_a_missing_or_altered_picture_is_an_error(
    photos: Path, harm: Callable[[Path], None], said: str
) -> None:
    config, run, _ = begun(photos)
    harm(photos / "05.png")
    with pytest.raises(StageError, match=said) as caught:
        record_sources(config, run)
    assert f"images.path={photos}" in str(caught.value)


def in_this_process(
    config: Config, actor: Any, arguments: dict[str, Any], rows: Any, **_: Any
) -> list[dict[str, Any]]:
    """`map_actors` without Ray."""
    made = actor(**arguments)({"concept": [row["concept"] for row in rows]})
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


def test_another_picture_of_the_same_size_is_found_when_it_is_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, listed = begun(photos)
    data = (photos / "05.png").read_bytes()
    (photos / "05.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert record_sources(config, run) == listed
    monkeypatch.setattr("pipelines.stages.editing.map_actors", in_this_process)
    for actor in (EditConcept, PilotEditor):
        with pytest.raises(StageError, match=r"05\.png is not the picture .* redo=\[pairs\]"):
            list(edit_with(config, run, actor, "filter", [CONCEPT]))
    assert not run.files("pairs") and not run.files("editing")


def test_redo_begins_on_the_folder_as_it_is(photos: Path) -> None:
    config, run, _ = begun(photos)
    (photos / "05.png").unlink()
    picture(photos / "12.png", 99)
    redo(config, run, ["pairs"])
    assert set(record_sources(config, run)) == {f"{i:02}.png" for i in range(13) if i != 5}


def test_another_count_before_pairs_are_begun_is_another_list(photos: Path) -> None:
    _, run, _ = begun(photos)
    few = config_of(photos, count=10)
    assert len(record_sources(few, run)) == len(sources_of(few, run)) == 10
    run.write_json("stages/pairs.started.json", {})
    assert len(record_sources(config_of(photos), run)) == 10  # and `pairs` refuses the key


def test_a_run_without_a_list_goes_on_with_the_pictures_of_its_pairs(photos: Path) -> None:
    """As they were made before: a picture that came in since would move the split."""
    config = config_of(photos)
    run = RunDir(config.run_dir)
    ids = sorted(["._x.png", *(f"{i:02}.png" for i in range(COUNT - 1))])
    picture(photos / "._x.png", 1)

    def write(concept_id: str, made: list[str], about: dict[str, object]) -> None:
        table = pa.table({"image_id": made})
        run.write_table(
            file_of(concept_id), table.replace_schema_metadata({"about": json.dumps(about)})
        )

    run.write(file_of("a-damaged"), b"no Parquet")
    write("b-few", ids[:3], {"images": 3, "errors": {}, "rejected": {}})
    about = {"images": COUNT, "errors": {ids[0]: "bad"}, "rejected": {ids[4]: "weak"}}
    write("c-all", [i for i in ids if i not in (ids[0], ids[4])], about)
    assert list(sources_of(config, run)) == ids
    assert list(record_sources(config, run)) == ids == list(record_sources(config, run))


@pytest.mark.parametrize(
    ("words", "harm", "said"),
    [
        (["images.count=13"], None, "images.count=13: the folder .* holds 12 pictures"),
        (["images.path=/nowhere/at/all"], None, "images.path=/nowhere/at/all: .* does not exist"),
        ([], remove_all, "images.path=.* does not exist"),
    ],
)
def test_a_folder_that_is_too_little(
    photos: Path, words: list[str], harm: Callable[[Path], None] | None, said: str
) -> None:
    if harm:
        harm(photos / "00.png")
    given = {w.partition("=")[0]: w for w in words}
    base = [f"run_dir={photos.parent / 'run'}", "images.source=folder", "preset=tiny"]
    keys = {"images.path": f"images.path={photos}", "images.count": f"images.count={COUNT}"} | given
    config = load_config([*base, *keys.values()])
    with pytest.raises(ConfigError, match=said):
        record_sources(config, RunDir(config.run_dir))


def test_avatars_need_no_list(tmp_path: Path) -> None:
    config = load_config(["preset=tiny", f"run_dir={tmp_path}"])
    run = RunDir(config.run_dir)
    assert next(iter(record_sources(config, run))) == "avatar-0000000"
    assert not run.exists(SOURCES)
