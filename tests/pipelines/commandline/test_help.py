"""Help and `keys`: complete, from the schema's own words, and without anything heavy."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipelines.__main__ import main
from pipelines.commandline.commands import COMMANDS
from pipelines.commandline.help import typed
from pipelines.commandline.words import explained, keys, sections
from pipelines.config.load import load_config
from pipelines.config.nearest import all_keys
from pipelines.config.sections.training import Gans
from pipelines.config.tree import flat, to_dict
from pipelines.runtime.stage_table import BY_NAME
from tests.driver import ROOT

HEAVY = ("torch", "ray", "transformers", "pyarrow", "numpy", "pandas", "diffusers", "PIL")


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["gans", "--help"],
        ["keys"],
        ["keys", "generator"],
        ["config", "preset=paper"],
        ["dance"],
        ["run", "imags.size=3"],
        ["run", "seed=x"],
        ["run", "gans.batch=0"],
        ["run", "weights.grouping=4"],
        ["run", "images.size=33"],
        ["run", "editor=nobody"],
        ["plan", "seed=x"],
        ["serve", "generator.heads=3"],
        ["tune", "study=block_size"],
        ["tune", "study=nothing", "run_dir=x"],
        ["tune", "study=block_size", "run_dir=x", "gans.stps=1"],
        ["submit", "preset=huge", "address=http://127.0.0.1:9"],
        ["export-dataset", "run_dir=x"],
    ],
    ids=" ".join,
)
def test_the_front_door_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from pipelines.__main__ import main; status = main(sys.argv[1:]);"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules], status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    right = words[:1] in (["--help"], ["keys"], ["config"]) or "--help" in words
    assert done.stderr.splitlines()[-1] == f"heavy: [] {0 if right else 2}"


def test_every_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["keys"], capsys)
    shown = re.findall(r"^  ([\w.]+)=", out, re.MULTILINE)
    assert tuple(shown) == all_keys()
    assert [key.name for key in keys().values() if not key.about] == []


@pytest.mark.parametrize("stage", BY_NAME)
def test_a_stages_help_has_its_files_and_its_keys(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed([stage, "preset=small", "--help"], capsys)
    config = flat(to_dict(load_config(["preset=small"])))
    for need in BY_NAME[stage].needs:
        assert re.search(rf"^reads: .*\b{need}\b", out, re.MULTILINE)
    for output in BY_NAME[stage].outputs:
        assert output in out
    for name, key in keys().items():
        decides = any(f"{name}.".startswith(f"{s}.") for s in BY_NAME[stage].sections)
        line = f"  {name}={typed(config[name])}  ({key.kind}"
        assert (line in out) == decides, name


def test_a_preset_that_differs_from_the_default_shows_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = printed(["gans", "--help", "--preset", "paper", "gans.batch=3"], capsys)
    assert "  gans.batch=3  (a whole number, default 16)" in out
    assert "preset=paper" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed([command, "--help"], capsys)
    assert out.startswith(f"usage: denoised-weights {command}")
    for word in (*COMMANDS[command].words, *COMMANDS[command].flags):
        assert word in out


def test_a_section_a_key_and_what_is_neither(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["keys", "llm.writer", "lora.rank"], capsys)
    assert "llm.writer.base_url=" in out and "lora.rank=1" in out and "lora.seed" not in out
    assert main(["keys", "wieghts"]) == 2
    error = capsys.readouterr().err
    assert "did you mean weights?" in error and all(s in error for s in sections())


def test_an_inherited_field_has_the_words_of_where_it_is_declared() -> None:
    about = explained(Gans)
    assert about["lr_floor"].startswith("Part of lr")  # declared in modeling/targets/recipe.py
    assert about["steps"].startswith("0 = found on pilot concepts")  # said anew by the section
