"""The command line: what it prints and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.config.load import load_config, preset_names
from pipelines.runtime.run_dir import ArtifactError
from pipelines.runtime.stage_table import BY_NAME
from tests.driver import ROOT


def module(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_as_a_module_lists_stages_and_presets() -> None:
    done = module("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in [*BY_NAME, *preset_names(), "run", "serve", "config"]:
        assert word in done.stdout.split() or f"{word}," in done.stdout.split(), word
    assert "images.source" in done.stdout and "weights.block_size" in done.stdout


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["-h"], "COMMAND"),
        (["help"], "COMMAND"),
        (["run", "--help"], "run"),
        (["run", "sed=1", "--help"], "run"),
        (["gans", "-h", "preset=small"], "gans"),
        (["help", "gans"], "gans"),
        (["--help", "gans"], "gans"),
    ],
)
def test_help_is_given_wherever_it_is_asked_for(
    words: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert f"usage: denoised-weights {usage}" in capsys.readouterr().out


FIRST_IMPORT = """
import os, sys
from pipelines.__main__ import main

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            print(os.environ.get("RAY_AUTH_MODE"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["run", "tune", "submit"])
def test_ray_is_imported_after_its_settings_are_made(command: str, tmp_path: Path) -> None:
    """Imported before, a driver has no token for the head that it then starts itself."""
    own = {
        "tune": ["study=block_size"],
        "submit": ["address=http://127.0.0.1:9", "cluster.shared_storage=true"],
    }
    words = [command, "preset=tiny", f"run_dir={tmp_path}", *own.get(command, [])]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_IMPORT, *words],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "token\n", done.stderr


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: denoised-weights" in capsys.readouterr().out


def test_a_wrong_key_as_a_module_is_one_line_and_exit_2() -> None:
    done = module("run", "preset=tiny", "imags.size=32")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("denoised-weights: unknown key imags; did you mean images?")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dance"], "unknown command 'dance' (denoised-weights --help lists them)"),
        (["run", "preset=huge"], "no such preset"),
        (["run", "preset=tiny", "seed=x"], "seed must be a whole number"),
        (["concepts", "preset=tiny", "redo=[sleep]"], "redo=sleep: no such stage"),
        (["serve", "preset=tiny", "colour=red"], "unknown key colour"),
    ],
)
def test_exit_2_for_what_the_user_must_change(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("denoised-weights: ") and message in line
    assert list(tmp_path.iterdir()) == []


def test_config_prints_yaml_that_gives_the_same_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    words = ["preset=tiny", "seed=5", "adapt.keep=[1,2]", "lora.ranks={head: 2}", "run_dir=a b"]
    assert main(["config", *words]) == 0
    printed = capsys.readouterr().out
    tree = yaml.safe_load(printed)
    again = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True) if value != '' else ''}"
        for key, value in tree.items()
    ]
    again = [word.removesuffix("\n").removesuffix("\n...") for word in again]
    assert load_config(again) == load_config(words)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that refuse before they use Ray."""
    from contextlib import nullcontext

    monkeypatch.setattr("pipelines.runtime.session.ray_session", lambda config, run: nullcontext())


@pytest.mark.parametrize("stage", [*BY_NAME][1:])
def test_a_stage_without_its_input_names_the_stage_to_run(
    stage: str, no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([stage, "preset=tiny", f"run_dir={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"denoised-weights: {stage} needs stage concepts, which has not finished"
    )
    assert line.endswith("run it first")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["images.source=folder", "images.path=nowhere"],
            2,
            "images.path=nowhere: the image folder nowhere does not exist",
        ),
        (
            ["images.source=folder", "images.path=few"],
            2,
            "images.count=20: the folder images.path=few holds 1 pictures",
        ),
        (["run_dir=nope://x"], 1, "run_dir=nope://x: Protocol not known"),
        (["run_dir=few/a.png"], 1, "few/a.png"),
        (["text_encoder=nowhere"], 1, "text_encoder=nowhere: cannot be loaded"),
    ],
)
def test_one_sentence_for_what_is_not_there(
    words: list[str],
    status: int,
    message: str,
    no_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    (tmp_path / "few/a.png").write_bytes(b"")
    filters = ["concepts.families=[duotone]", "concepts.combine=[]", "concepts.paired_families=[]"]
    kinds = ("train", "paired", "test")
    counts = [f"concepts.{kind}_combinations=0" for kind in kinds]
    statuses = (main([s, "preset=tiny", *filters, *counts, *words]) for s in ("concepts", "pairs"))
    assert next(filter(None, statuses)) == status  # of the first stage that fails
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("denoised-weights: ") and message in line


def test_an_error_of_ours_inside_an_actor_is_one_sentence_and_a_bug_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    def fail(error: Exception) -> None:
        def command(*_: object, **__: object) -> int:
            raise error

        monkeypatch.setattr("pipelines.__main__._command", command)

    trace = "ray::MapWorker()\n  File x\npipelines.artifacts.ArtifactError: a/b is missing\n\nmore"
    task_error = RayTaskError("f", trace, ArtifactError("a/b is missing"))
    fail(task_error)
    assert main(["run"]) == 1
    assert capsys.readouterr().err == "denoised-weights: a/b is missing\n"
    fail(ActorDiedError(task_error))
    assert main(["run"]) == 1
    assert capsys.readouterr().err == "denoised-weights: a/b is missing\n"
    fail(RayTaskError("f", "ray::MapWorker()\n  File x\nKeyError: 'a'", KeyError("a")))
    with pytest.raises(RayTaskError):
        main(["run"])
    fail(KeyError("a"))
    with pytest.raises(KeyError):
        main(["run"])
    fail(KeyboardInterrupt())
    assert main(["run"]) == 130
    assert "the same command continues" in capsys.readouterr().err
