"""Every command in the Markdown is run, or, where a comment says why not, its words are checked."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.__main__ import VERBS, main
from pipelines.commandline.commands import COMMANDS
from pipelines.commandline.typed import key_words
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from tests.conftest import Finished
from tests.docs.markdown import FILES, ROOT, Block, blocks

ALL = [block for file in FILES for block in blocks(file)]
KEPT_OUT = (".git", ".venv", "runs", "site")
"""What a folder that looks like the checkout does not share with it."""


def once(language: str, run: bool, finished: bool = False) -> list[Any]:
    """The blocks of a kind; one that stands on two pages is taken from the first."""
    found: dict[str, Block] = {}
    for block in ALL:
        if (block.language, not block.reason, block.finished) == (language, run, finished):
            found.setdefault(block.text, block)
    return [pytest.param(block, id=str(block)) for block in found.values()]


def commands(block: Block) -> list[list[str]]:
    """The words of each command; comments and continued lines as a shell reads them."""
    lines = block.text.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the checkout and takes what a command writes."""
    for path in ROOT.iterdir():
        if path.name not in KEPT_OUT:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> None:
    """The command itself, in this process where it is ours: torch is then imported once."""
    if words[:3] == ["python", "-m", "pipelines"]:
        words = ["denoised-weights", *words[3:]]
    if words[0] == "denoised-weights":
        assert main(words[1:]) == 0, words
        return
    assert words[:2] == ["python", "-m"], f"{words[0]}: say above the block why it is not run"
    subprocess.run([sys.executable, *words[1:]], check=True, timeout=60)


@pytest.mark.parametrize("block", once("sh", run=True))
def test_commands_run(block: Block, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(block):
        run(words)
        if words[0] == "denoised-weights":
            assert capsys.readouterr().out.strip(), words


@pytest.fixture
def finished_demo(finished: Finished, checkout: Path) -> Path:
    """A finished run in runs/demo, of the preset tiny."""
    shutil.copytree(finished.folder, checkout / "runs/demo")
    return checkout


@pytest.mark.parametrize("block", once("sh", run=True, finished=True))
def test_commands_on_a_finished_run(block: Block, finished_demo: Path) -> None:
    for words in commands(block):
        run(words)


each_python = pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=str)


@each_python
def test_python_imports_what_there_is(block: Block) -> None:
    """Without the finished run that the rest may need."""
    tree = ast.parse(block.text)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, block.file, "exec"), {})


@each_python
def test_python_runs(block: Block, request: pytest.FixtureRequest) -> None:
    code = compile("\n" * block.line + block.text, block.file, "exec")
    if not block.reason:
        request.getfixturevalue("finished_demo" if block.finished else "checkout")
        exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("block", once("yaml", run=True))
def test_studies_are_studies(block: Block, tmp_path: Path) -> None:
    assert "axis" in yaml.safe_load(block.text), f"{block}: the pages have no other YAML"
    from tuning.study import expanded, load_study

    (tmp_path / "study.yaml").write_text(block.text)
    assert expanded(load_study(str(tmp_path / "study.yaml")))


@pytest.mark.parametrize("block", once("sh", run=False))
def test_commands_that_are_not_run_could_be(block: Block, known: set[str]) -> None:
    for words in commands(block):
        check(words, known)


@pytest.fixture
def known(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The commands, as the help lists them."""
    assert main(["--help"]) == 0
    return set(re.findall(r"^ +([a-z][a-z-]*) ", capsys.readouterr().out, re.MULTILINE))


def check(words: list[str], known: set[str]) -> None:
    """AssertionError or ConfigError unless the program, its files, modules and keys exist."""
    program, rest = words[0], words[1:]
    if program == "ray" and "--" in rest:
        check(rest[rest.index("--") + 1 :], known)
    elif program == "denoised-weights":
        ours(rest, known)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest and set(rest) <= set(targets), words
    elif program == "python":
        assert rest[0] == "-m" and find_spec(rest[1]), words
        if rest[1] == "pipelines":
            ours(rest[2:], known)
    elif program == "curl":
        (url,) = (word for word in rest if "localhost:" in word)
        path = url.partition("localhost:8000")[2]
        assert any(re.fullmatch(route, path) for route in routes()), url
    else:
        others = ("ray", "serve", "kubectl", "sbatch", "tensorboard", "export", ".")
        assert program in others, f"{program}: what is it?"
    for word in rest:
        if re.match(r"(cluster|tests|modeling|pipelines|tuning)/", word):
            assert (ROOT / word).exists(), word


def routes() -> list[str]:
    """The service's paths, as patterns."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    return [re.sub(r"\{\w+\}", r"[\\w-]+", path) for path in paths]


def ours(words: list[str], known: set[str]) -> None:
    """Check a command of this project, and its keys, without running it."""
    command, rest = words[0], words[1:]
    assert command in known, f"{command}: the help has no such command"
    if not COMMANDS[command].keys and COMMANDS[command].words:
        key_words(COMMANDS[command], rest)  # its own words, and nothing else
        return
    if command == "plan":
        from pipelines.plan.words import OWN

        rest = [w for w in rest if w.removeprefix("--").partition("=")[0] not in OWN]
    elif command == "submit":
        from pipelines.submit import OWN

        rest = [w for w in rest if w.partition("=")[0] not in OWN]
    elif command == "tune":
        from tuning.study import load_study, own_words

        (name,) = (w.partition("=")[2] for w in rest if w.startswith("study="))
        mine, rest = own_words([w for w in rest if not w.startswith("study=")])
        load_study(name, mine)
    elif command in VERBS:
        about = COMMANDS[command]
        typed = [w for w in key_words(about, rest) if "=" in w]
        rest = [w for w in typed if w.partition("=")[0] not in about.words]
    load_config(rest)


@pytest.mark.parametrize(
    "line",
    [
        "denoised-weights rum preset=demo",
        "denoised-weights run presets=demo",
        "denoised-weights tune study=nothing run_dir=runs/demo",
        "denoised-weights export-dataset run_dir=runs/demo",
        "ray job submit -- python -m pipelines run images.sise=32",
        "python -m tuning.nothing runs/demo",
        "python -m pytest tests/nothing",
        "kubectl apply -f cluster/nothing.yaml",
        "make nothing",
        "curl -s localhost:8000/v1/nothing",
        "mke demo",
    ],
)
def test_what_cannot_run_is_found(line: str, known: set[str]) -> None:
    with pytest.raises((AssertionError, ConfigError)):
        check(shlex.split(line), known)


def test_nothing_else_than_the_reason_keeps_a_command_from_running() -> None:
    """Most pages show commands, and some are run."""
    assert len(once("sh", run=True)) >= 5 and len(once("sh", run=False)) >= 5
