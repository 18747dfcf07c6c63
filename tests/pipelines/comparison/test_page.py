"""The comparison's page: it stands alone, and no text of an artifact becomes markup."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modeling.images import encode_png
from pipelines.comparison.numbers import summarise
from pipelines.comparison.page import comparison_section, write
from pipelines.runtime.run_dir import RunDir
from tests.pipelines.comparison.hand_made import METHODS, rows
from tests.pipelines.page_reader import Reader

NASTY = '<script>alert("x")</script> & a beard'


def hostile() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and pictures with a hostile string wherever an artifact may hold one."""
    scored = rows()
    for row in scored:
        row["features"] = row["distance"] = NASTY
        row["heldout"] = NASTY
    summary = {**summarise(scored, METHODS), "differs": [NASTY], "preset": NASTY, "seed": 0}
    image = encode_png(np.zeros((32, 32, 3), np.uint8))
    about = {"concept_id": "c0", "text": NASTY, "l1": 0.25, "image_id": NASTY, "image": image}
    ends = {"pix2pix": (200,), "E²GAN": (0, 100), "prediction": (0, 20), "zero LoRA": (0, 20)}
    ends |= {"source": (0,), "ground truth": (0,)}
    pictures = [{**about, "method": m, "epoch": e} for m, epochs in ends.items() for e in epochs]
    return summary, pictures


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run_dir = RunDir(str(tmp_path_factory.mktemp("run")))
    write(run_dir, "comparison", *hostile())
    return run_dir.read("comparison/index.html").decode()


def test_texts_are_escaped(page: str) -> None:
    reader = Reader(page)
    assert "<script" not in page and "script" not in reader.tags
    assert f"“{NASTY}”" in reader.words  # the concept, as it was written
    assert NASTY in reader.words  # among what differs
    assert any(alt == f"prediction: {NASTY}, {NASTY}" for alt in reader.alts)
    assert any(f"ends at {NASTY} 11.00" in word for word in reader.words)
    assert any(f"concepts of {NASTY} set" in word for word in reader.words)


def test_it_loads_nothing_from_elsewhere(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert len(reader.ids) == len(set(reader.ids))


def test_without_pictures_and_curves_it_says_so() -> None:
    summary, _ = hostile()
    section = comparison_section({**summary, "curves": {m: [] for m in METHODS}}, [])
    assert "No curve was scored." in section
    assert "No concept has pictures of all methods." in section
    assert Reader(section).open == []
