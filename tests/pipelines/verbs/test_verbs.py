"""predict, adapters, sheet: what they write, what they print, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import Run
from pipelines.__main__ import main
from pipelines.runtime.run_dir import RunDir
from pipelines.verbs.texts import folder_names


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints with --json."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_writes_what_python_would(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffsepia\n\n  indigo hair \n", encoding="utf-8")
    words = ["predict", "Indigo hair!", f"texts={file}", f"run_dir={run.uri}", "seed=3"]
    rows = told(capsys, *words, f"out={tmp_path / 'out'}")
    assert [r["text"] for r in rows] == ["Indigo hair!", "sepia", "indigo hair"]
    assert [Path(r["folder"]).name for r in rows] == ["indigo-hair", "sepia", "indigo-hair-2"]
    used = Run(run.uri)
    for row in rows:
        adapter = used.predict(row["text"], seed=3)
        assert row["name"] == adapter.name
        assert adapter.files() == {
            p.name: p.read_bytes() for p in Path(row["folder"]).iterdir() if p.is_file()
        }


def test_folder_names_are_different_and_any_file_system_takes_them() -> None:
    texts = ["a/b", "a b", "A B", "../..", "日本の髪", "é" * 200, "CON"]
    names = folder_names(texts)
    assert len(set(names)) == len(names)
    assert all(name and "/" not in name and not name.startswith(".") for name in names)
    assert names[4] == "日本の髪" and len(names[5]) == 60


def test_sheet_shows_each_text_on_each_picture(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    out = tmp_path / "made" / "sheet.png"
    words = ["sheet", "indigo hair", "sepia", f"run_dir={run.uri}", f"images={tmp_path}"]
    assert told(capsys, *words, f"out={out}", "most=2")["texts"] == ["indigo hair", "sepia"]
    sheet = Image.open(out)
    assert sheet.size == (8 + 2 * 200, 8 + 3 * (192 + 22 + 8))
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_adapters_lists_what_a_run_has(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = told(capsys, "adapters", f"run_dir={finished.folder}")
    kinds = [r["kind"] for r in rows]
    collected = list(finished.folder.glob("adapters/*/metrics.json"))
    assert kinds.count("collected") == len(collected) >= 15 and kinds.count("held-out") > 3
    assert all(r["text"] and 0 < r["l1"] < 2 for r in rows if r["kind"] == "collected")
    only = told(capsys, "adapters", f"run_dir={finished.folder}", "of=held-out")
    assert only == [r for r in rows if r["kind"] == "held-out"]
    assert main(["adapters", f"run_dir={finished.folder}"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["predict", "run_dir=RUN", "out=OUT"], "predict needs a text"),
        (["predict", "sepia", "out=OUT"], "predict needs run_dir"),
        (["predict", " \u200b", "run_dir=RUN", "out=OUT"], "says nothing"),
        (["predict", "texts=OUT/none", "run_dir=RUN", "out=OUT"], "cannot be read as UTF-8"),
        (["predict", "sepia", "run_dir=RUN", "out=OUT", "seed=-1"], "seed=-1"),
        (["predict", "sepia", "run_dir=RUN", "out=OUT", "sed=1"], "did you mean"),
        (["sheet", "sepia", "run_dir=RUN", "images=OUT", "out=a.jpg"], "a sheet is a PNG"),
        (["sheet", "sepia", "run_dir=RUN", "images=OUT/no", "out=a.png"], "does not exist"),
        (["adapters", "run_dir=OUT"], "holds no run"),
        (["adapters", "run_dir=RUN", "of=all"], "must be one of"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    words: list[str],
    reason: str,
    run: RunDir,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [w.replace("RUN", run.uri).replace("OUT", str(tmp_path)) for w in words]
    assert main(filled) == 2
    assert reason in capsys.readouterr().err
