"""Diffusion editors on tiny random pipelines, saved and loaded by the real code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modeling.concepts import Concept
from modeling.editors import EditResult, load_source, make_editor
from tests import tiny_diffusion

GREY = Concept("grey-hair-000000", "grey hair", "facial", (), "train")


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.stable_diffusion(tmp_path_factory.mktemp("sd"))


def test_img2img_edits_a_batch(stable_diffusion: Path) -> None:
    editor = make_editor("img2img", model=str(stable_diffusion), batch=2, steps=4)
    sources = [load_source(f"avatar-000000{i}", "avatars", 32) for i in range(3)]
    results = editor.edit(sources, GREY)
    assert all(isinstance(r, EditResult) for r in results), results
    alone = editor.edit(sources[2:], GREY)
    assert np.abs(alone[0].image.astype(int) - results[2].image.astype(int)).max() <= 1
