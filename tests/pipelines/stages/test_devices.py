"""Where there is a GPU, an actor that trains works on it, with its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.config import tree as config_tree
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.stages import trainer
from pipelines.stages.gans import MOST, concepts_at_once


class Moved:
    """A network that says where it was put."""

    device = torch.device("cpu")

    def to(self, device: torch.device) -> Moved:
        self.device = device
        return self


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_an_actor_works_on_the_gpu_that_is_there(
    there: bool, expected: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(["preset=tiny", "precision=tf32", "cluster.gpus_per_actor=0.5"])
    network, critic = Moved(), Moved()
    used: list[tuple[str, str]] = []
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(trainer, "load_base", lambda *_: (network, critic))
    monkeypatch.setattr(trainer, "load_text", lambda *_: {})
    monkeypatch.setattr(trainer, "use", lambda name, device: used.append((name, device.type)))
    actor = trainer.Trainer(config_tree.to_dict(config), RunDir(str(tmp_path)))
    assert {actor.device.type, network.device.type, critic.device.type} == {expected}
    assert used == [("tf32", expected)]
    assert shares == ([0.5] if there else [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gans.concepts_per_batch=0"], MOST["cpu"]),
        (["gans.concepts_per_batch=0", "cluster.gpus_per_actor=0.25"], MOST["cuda"]),
        (["gans.concepts_per_batch=5", "cluster.gpus_per_actor=0.25"], 5),
    ],
)
def test_concepts_of_a_batch_go_by_the_device(words: list[str], expected: int) -> None:
    assert concepts_at_once(load_config(["preset=tiny", *words])) == expected
