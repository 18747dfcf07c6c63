"""`precision=`: which stages depend on it, and what it comes to in each."""

from __future__ import annotations

import pytest

from modeling.precision import PRECISIONS
from pipelines.config.derived import precision_of
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime.stage_graph import changes, depends_on
from pipelines.runtime.stage_table import BY_NAME

TRAINING = ("base", "gans", "generator", "adapt", "evaluate", "ranks", "compare")
GPUS = ["cluster.gpus_per_actor=1"]


@pytest.mark.parametrize("stage", BY_NAME)
def test_what_trains_depends_on_it(stage: str) -> None:
    before = {"config": depends_on(BY_NAME[stage], load_config([]))}
    rough = load_config(["precision=bfloat16"])
    found = changes(BY_NAME[stage], before, depends_on(BY_NAME[stage], rough))
    expected = ["precision=auto then, precision=bfloat16 now"] if stage in TRAINING else []
    assert found == expected
    before["config"].pop("precision", None)  # of a run that was made when there was no choice
    assert changes(BY_NAME[stage], before, depends_on(BY_NAME[stage], load_config([]))) == []


@pytest.mark.parametrize(
    ("words", "stage", "comes_to"),
    [
        ([], "base", "float32"),
        ([], "gans", "float32"),
        (GPUS, "gans", "tf32"),
        (GPUS, "base", "float32"),
        (["cluster.gpu_training=true"], "base", "tf32"),
        (["cluster.gpu_training=true"], "compare", "float32"),
        (["precision=tf32"], "gans", "float32"),
        ([*GPUS, "precision=float32"], "gans", "float32"),
        (["precision=bfloat16"], "generator", "bfloat16"),
    ],
)
def test_what_it_comes_to(words: list[str], stage: str, comes_to: str) -> None:
    assert precision_of(load_config(words), stage) == comes_to


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision") as error:
        load_config(["precision=float16"])
    assert all(name in str(error.value) for name in PRECISIONS)
