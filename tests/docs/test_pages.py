"""Length, navigation, links, and the names of files, modules and keys: `make docs` runs these, too.

The site's own builder finds broken links and anchors between its pages, but neither a missing
picture nor a page that no menu has.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.commandline.pages import pages
from pipelines.config.load import preset_names
from pipelines.config.schema import Config
from pipelines.runtime.stage_table import BY_NAME
from tests.docs.markdown import (
    FILES,
    FINISHED,
    NOT_RUN,
    PAGES,
    ROOT,
    anchors,
    blocks,
    inline_code,
    links,
    prose,
)

ROOMS = ("modeling", "pipelines", "tuning", "cluster", "tests", "docs")
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@each_file
def test_a_page_is_short(file: Path) -> None:
    most = 150 if file.name == "README.md" else 200
    assert len(file.read_text().splitlines()) <= most


def pages_of(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for inside in entry.values():
                yield from pages_of(inside if isinstance(inside, list) else [inside])


def test_the_menu_has_each_page_once() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(pages_of(site["nav"])) == [page.name for page in PAGES]


@each_file
def test_links_lead_somewhere(file: Path) -> None:
    for link in links(file):
        name, _, anchor = link.partition("#")
        target = (file.parent / name).resolve() if name else file
        assert target.exists(), f"{file.name}: {link}"
        assert target.is_relative_to(ROOT), f"{file.name}: {link}"
        if file in PAGES:  # the site has no other files
            assert target.is_relative_to(ROOT / "docs"), f"{file.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{file.name}: {link}"


def test_every_picture_is_shown() -> None:
    shown = {(f.parent / link).resolve() for f in FILES for link in links(f)}
    assert set((ROOT / "docs").glob("*.png")) <= shown


@each_file
def test_a_page_has_one_title_and_no_other_languages(file: Path) -> None:
    assert len(re.findall(r"^# ", prose(file), re.MULTILINE)) == 1
    assert {block.language for block in blocks(file)} <= {"sh", "python", "yaml", ""}


def test_what_is_not_run_has_its_reason() -> None:
    for file in FILES:
        for block in blocks(file):
            kind = block.note.startswith(NOT_RUN) or block.note in ("", FINISHED)
            assert kind, f"{block}: {block.note}"
            if block.note.startswith(NOT_RUN):
                assert len(block.reason.split()) >= 3, block


def missing_files(text: str) -> list[str]:
    """Paths of this repository that the text names and that are not there; NAME stands for any."""
    names = re.findall(rf"(?<![\w/.:-])(?:{'|'.join(ROOMS)})/[\w./*-]*[\w*]/?", text)
    return [n for n in names if not list(ROOT.glob(re.sub(r"\b[A-Z]{2,}$", "*", n.rstrip("/"))))]


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def missing_modules(text: str) -> list[str]:
    """Dotted names (`pipelines.serve:build`) whose module is not there; cluster.* may be keys."""
    names = re.findall(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})(?:\.\w+)+", text)
    return [name for name in names if not is_module(name) and unknown(name)]


@each_file
def test_named_files_and_modules_exist(file: Path) -> None:
    text = file.read_text()
    assert missing_files(text) == []
    assert missing_modules(text) == []


def test_names_that_are_gone_are_found() -> None:
    assert missing_files("see modeling/nothing.py and `docs/`") == ["modeling/nothing.py"]
    assert missing_files("`tests/bench/results/*.json` or tests/bench/results/no*.json") == [
        "tests/bench/results/no*.json"
    ]
    assert missing_modules("`pipelines.serve:build`, `pipelines.server:build`") == [
        "pipelines.server"
    ]


def unknown(key: str) -> bool:
    """Whether a dotted key of a section that exists does not exist; mappings take any."""
    node: Any = Config()
    for part in key.split("."):
        if not is_dataclass(node):
            return not isinstance(node, dict)
        if part not in {f.name for f in fields(node)}:
            return True
        node = getattr(node, part)
    return False


@each_file
def test_named_keys_exist(file: Path) -> None:
    sections = {f.name for f in fields(Config) if is_dataclass(getattr(Config(), f.name))}
    for code in inline_code(file):
        for key in re.findall(r"(?<![\w./-])([a-z]\w*(?:\.\w+)+)", code):
            name = key.removesuffix(".")
            is_file = name.endswith((".py", ".yaml", ".json", ".parquet", ".md", ".html"))
            if name.partition(".")[0] in sections and not is_file and not is_module(name):
                assert not unknown(name), f"{file.name}: {name}"


def test_keys_that_are_gone_are_found() -> None:
    assert unknown("images.sizes") and unknown("serve.weights.mist") and unknown("seed.x")
    assert not unknown("images.size") and not unknown("editing.steps.null_text")


def misplaced(step: str) -> list[str]:
    """Names of classes, constants and functions that no file named in the same step has."""
    codes = re.findall(r"`([^`]+)`", step)
    files = [path for code in codes for path in sources(ROOT / code) if "/" in code]
    text = "".join(path.read_text() for path in files)
    names = [c for c in codes if re.fullmatch(r"[A-Za-z]\w*", c) and re.search(r"[A-Z]|_", c)]
    return [name for name in names if files and name not in text]


def sources(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []


def test_what_a_walk_names_stands_in_the_files_that_it_names() -> None:
    steps = re.split(r"\n(?=\d\. |\n)", prose(ROOT / "docs/developing.md"))
    assert [name for step in steps for name in misplaced(step)] == []
    assert misplaced("`FAMILIES` in `pipelines/config/schema.py`") == ["FAMILIES"]


def test_every_stage_and_preset_is_in_its_table() -> None:
    stages = (ROOT / "docs/stages.md").read_text()
    assert [name for name in BY_NAME if f"| `{name}` |" not in stages] == []
    first = (ROOT / "docs/first-run.md").read_text()
    assert [name for name in preset_names() if f"| `{name}` |" not in first] == []


def test_generated_pages_are_up_to_date() -> None:
    """Else: python -m pipelines.commandline.pages."""
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text() == text, name
