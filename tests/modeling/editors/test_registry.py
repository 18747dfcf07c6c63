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


def test_names_and_plans_cost_nothing() -> None:
    """The command line checks names of editors and plans before anything heavy is imported."""
    code = (
        "import sys\n"
        "from modeling.concepts.planning import plan_concepts\n"
        "from modeling.editors.registry import DIFFUSION, EXACT\n"
        "assert plan_concepts and DIFFUSION and EXACT\n"
        "heavy = {'numpy', 'PIL', 'torch', 'pyarrow', 'dicebear', 'resvg_py', 'diffusers'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
