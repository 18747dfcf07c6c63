"""The floors of the house, drawn from the imports: no circle, and no arrow that runs up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.driver import ROOT

TABLE = ROOT / "docs" / "house.md"
HALLS = ("modeling", "pipelines", "tuning", "cluster")
LINES_OF_A_FUNCTION = 80
LAZY_FACES = ("pipelines/__init__.py", "pipelines/serve/__init__.py")
"""Packages that are only the lazy public face of files above: importing them imports none."""


def floors() -> dict[str, int]:
    """Room → floor, of the table in docs/house.md."""
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \|", TABLE.read_text(), re.MULTILINE)
    return {room: int(floor) for floor, room in rows}


@cache
def files() -> dict[str, str]:
    """Module → its file, relative to the checkout."""
    paths = [p.relative_to(ROOT) for hall in HALLS for p in sorted((ROOT / hall).rglob("*.py"))]
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): str(p) for p in paths}


@cache
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse((ROOT / path).read_text()) for path in files().values()}


def room_of(path: str, rooms: dict[str, int]) -> str:
    """The longest name in the table that the file is, or lies in; "" for none."""
    inside = [r for r in rooms if path == r or path.startswith(f"{r}/")]
    return max(inside, key=len, default="")


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Files that it imports, inside functions and for types alone, too."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        yield from (files()[name] for name in names if name in files())


@cache
def arrows() -> dict[str, set[str]]:
    """File → files that it imports. The lazy public faces are left out."""
    plain = {p: set(imports_of(t)) - {p} - set(LAZY_FACES) for p, t in trees().items()}
    return {p: targets for p, targets in plain.items() if p not in LAZY_FACES}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """One round of each circle, as a text."""
    found, state = [], dict.fromkeys(graph, 0)

    def visit(at: str, way: list[str]) -> None:
        state[at] = 1
        for to in sorted(graph.get(at, ())):
            if state.get(to) == 1:
                found.append(" -> ".join([*way[way.index(to) :], to]))
            elif state.get(to) == 0:
                visit(to, [*way, to])
        state[at] = 2

    for start in graph:
        if state[start] == 0:
            visit(start, [start])
    return found


def test_every_file_has_a_room_and_every_room_has_files() -> None:
    rooms = floors()
    assert len(rooms) > 20
    homeless = [p for p in files().values() if not room_of(p, rooms)]
    packages = {f"{hall}/__init__.py" for hall in HALLS}
    assert set(homeless) <= packages
    assert {room_of(p, rooms) for p in files().values()} - {""} == set(rooms)


def test_no_arrow_runs_up_or_sideways() -> None:
    rooms, up = floors(), []
    for path, targets in arrows().items():
        here = room_of(path, rooms)
        for target in targets:
            there = room_of(target, rooms)
            if here and there and here != there and rooms[there] >= rooms[here]:
                up.append(f"{path} ({rooms[here]}) -> {target} ({rooms[there]})")
    assert up == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(arrows()) == []


def test_circles_and_arrows_would_be_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b -> c -> b"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    lazy = ast.parse("def f():\n    from pipelines.serve.command import build")
    assert "pipelines/serve/command.py" in set(imports_of(lazy))
    assert "tuning/study.py" in set(imports_of(ast.parse("from tuning import study")))


def test_modeling_never_imports_ray() -> None:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and path.startswith("modeling/"):
                names = [a.name for a in node.names]
                module = getattr(node, "module", None) or ""
                assert "ray" not in {n.partition(".")[0] for n in [*names, module]}, path


@pytest.mark.parametrize("hall", HALLS)
def test_no_function_is_long_without_a_reason(hall: str) -> None:
    """One over 80 lines says in its docstring that it is long, and why."""
    for path, tree in trees().items():
        if not path.startswith(hall):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                reason = "one function" in (ast.get_docstring(node) or "")
                assert lines <= LINES_OF_A_FUNCTION or reason, f"{path}: {node.name}, {lines} lines"


def test_every_folder_of_code_is_a_package() -> None:
    for path in files().values():
        assert (ROOT / Path(path).parent / "__init__.py").exists(), path


def test_every_test_stands_where_its_code_stands() -> None:
    """tests/modeling/weights/test_x.py tests something of modeling/weights."""
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = test.parent.relative_to(ROOT / "tests")
        if folder.parts and folder.parts[0] in HALLS:
            assert (ROOT / folder).is_dir(), f"{test.name} stands in tests/{folder}"
