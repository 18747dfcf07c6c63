"""Editors by their names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modeling.editors.interface import EditError
from modeling.editors.registry import REGISTRY, make_editor


def test_registry_lists_its_names() -> None:
    assert {make_editor(name).name for name in ("avatar", "filter")} <= set(REGISTRY)
    with pytest.raises(EditError, match="unknown editor 'magic': use one of avatar, filter"):
        make_editor("magic")


def test_names_cost_nothing() -> None:
    """The command line checks an editor's name before anything heavy is imported."""
    code = (
        "import sys\n"
        "from modeling.concepts.grammar.families import FAMILIES\n"
        "from modeling.editors.registry import DIFFUSION, EXACT\n"
        "assert FAMILIES and DIFFUSION and EXACT\n"
        "heavy = {'numpy', 'PIL', 'torch', 'pyarrow', 'dicebear', 'resvg_py', 'diffusers'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
