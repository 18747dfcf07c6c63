"""What the split of the pictures does not allow is said before anything starts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.__main__ import main
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import STAGES
from pipelines.stages.limits import check_edited, check_split
from pipelines.stages.pairs import INDEX

FOLDER = ["images.source=folder", "images.path=DIR"]
RUN = [stage.name for stage in STAGES]
FD = ["gans.steps=0", "gans.pilot_score=fd"]


@pytest.mark.parametrize(
    ("stages", "words", "keys"),
    [
        (RUN, [*FOLDER, "images.count=19"], ["images.count=19", "evaluate.kid=false"]),
        (["evaluate"], [*FOLDER, "images.count=10"], ["images.count=10", "evaluate.kid"]),
        (RUN, ["evaluate.images=1"], ["evaluate.images=1", "evaluate.kid=false"]),
        (RUN, ["editor=img2img", "images.count=12"], ["images.count=12", "evaluate.kid"]),
        (["compare"], [*FOLDER, "images.count=10"], ["images.count=10", "compare"]),
        (RUN, ["images.count=10", *FD], ["images.count=10", "gans.pilot_score", "gans.steps"]),
    ],
)
def test_too_few_pictures(stages: list[str], words: list[str], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_split(load_config(["preset=tiny", *words]), stages)
    assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (RUN, []),
        (RUN, [*FOLDER, "images.count=20"]),
        (RUN, [*FOLDER, "images.count=10", "evaluate.kid=false"]),
        (["concepts", "pairs", "base"], [*FOLDER, "images.count=10"]),
        (RUN, ["images.count=10"]),  # evaluate draws fresh avatars
        (RUN, ["images.count=20", *FD]),
        (["pairs"], ["images.count=10", *FD]),
    ],
)
def test_enough_pictures(stages: list[str], words: list[str]) -> None:
    check_split(load_config(["preset=tiny", *words]), stages)


def row(train: int, val: int, test: int, dropped: str = "") -> dict[str, object]:
    return {"train": train, "val": val, "test": test, "dropped": dropped}


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ([row(16, 2, 2), row(16, 2, 1)], FOLDER, "leaves 1 for the test, and evaluate.kid"),
        ([row(16, 2, 2), row(16, 1, 2)], [*FOLDER, *FD], "leaves 1 for validation"),
        ([row(16, 2, 2), row(16, 1, 1)], [*FOLDER, "evaluate.kid=false"], ""),
        ([row(16, 2, 2), row(9, 0, 0)], FOLDER, ""),  # a concept without an adapter
        ([row(16, 2, 2), row(9, 1, 1, "weak")], FOLDER, ""),
        ([row(16, 2, 1)], [], ""),  # evaluate draws fresh avatars
        ([row(9, 1, 1, "weak")], FOLDER, ""),
    ],
)
def test_pictures_that_could_not_be_edited_count(
    tmp_path: Path, rows: list[dict[str, object]], words: list[str], said: str
) -> None:
    config = load_config(["preset=tiny", f"run_dir={tmp_path}", *words])
    run = RunDir(config.run_dir)
    run.write_table(INDEX, pa.Table.from_pylist(rows))
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        check_edited(config, run, RUN)


@pytest.mark.parametrize("command", ["run", "concepts"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images.path=/nowhere/at/all"], "images.path=/nowhere/at/all"),
        (["images.path=tests", "images.count=20"], "images.path=tests"),
    ],
)
def test_the_folder_is_looked_at_before_ray_is_started(
    command: str,
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.runtime.session.ray_session", None)
    run = [f"run_dir={tmp_path}/run", "preset=tiny", "images.source=folder"]
    assert main([command, *run, *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
