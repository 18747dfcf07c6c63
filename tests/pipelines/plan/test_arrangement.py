"""Actors and concepts a batch are chosen together, by what all of them do at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.plan import arrangement, command
from pipelines.plan.arrangement import Arrangement, advice, arrangements, ways
from pipelines.runtime import machine


def test_every_arrangement_is_tried_and_the_fastest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In real processes, of this machine's cores but two at most."""
    monkeypatch.setattr(arrangement, "cores", lambda: 2)
    monkeypatch.setattr(arrangement, "COUNTS", {"cpu": (1, 3)})
    monkeypatch.setattr(arrangement, "THREADS", (1,))
    config = load_config(["preset=tiny", "gans.concepts_per_batch=2"])
    tried = arrangements(config, seconds=0.01)
    assert {(a.actors, a.threads) for a in tried} == {(2, 1)}
    assert sorted(a.concepts for a in tried) == [1, 2, 3]
    assert all(a.images_per_second > 0 for a in tried)
    assert tried == sorted(tried, key=lambda a: -a.images_per_second)


@pytest.mark.parametrize(
    ("words", "here", "expected"),
    [
        ([], 1, [(1, 1)]),
        ([], 2, [(2, 1), (1, 2)]),
        (["cluster.cpus_per_actor=3"], 12, [(11, 1), (5, 2), (3, 3), (2, 4)]),  # one core reads
        (["cluster.actors=3"], 4, [(3, 1), (3, 2), (3, 4)]),
        (["cluster.gpus_per_actor=1", "cluster.cpus_per_actor=8"], 64, [(1, 8), (2, 4), (4, 2)]),
    ],
)
def test_which_are_tried(
    words: list[str],
    here: int,
    expected: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that the stage would start."""
    monkeypatch.setattr(arrangement, "memory_bytes", lambda: None)
    assert ways(load_config(["preset=small", *words]), here) == expected


def test_the_advice_is_keys_that_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangement, "cores", lambda: 2)
    own = ["gans.concepts_per_batch=4", "cluster.cpus_per_actor=2", "cluster.actors=0"]
    config = load_config(["preset=tiny", *own])
    monkeypatch.setattr(arrangement, "memory_bytes", lambda: None)
    tried = [Arrangement(2, 1, 8, 300.0), Arrangement(1, 2, 4, 200.0), Arrangement(1, 2, 8, 0.0)]
    line, data = advice(config, tried)
    assert "gans.concepts_per_batch=8 cluster.cpus_per_actor=1" in line
    assert "1.50 times as fast as with the keys as they are" in line
    assert len(data["tried"]) == 3
    given = [f"{k}={v}" for k, v in data["fastest"].items()]
    assert load_config(["preset=tiny", *given]).gans.concepts_per_batch == 8


@pytest.mark.parametrize(("actors", "share"), [(1, 1.0), (2, 0.5), (4, 0.25)])
def test_actors_of_a_gpu_become_parts_of_it(actors: int, share: float) -> None:
    config = load_config(["preset=tiny", "cluster.gpus_per_actor=1"])
    line, data = advice(config, [Arrangement(actors, 1, 16, 300.0)])
    assert data["fastest"]["cluster.gpus_per_actor"] == share
    assert load_config(["preset=tiny", f"cluster.gpus_per_actor={share}"])
    assert f"{actors} actor" in line


def test_gpus_that_are_not_here_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert arrangements(load_config(["preset=tiny", "cluster.gpus_per_actor=1"])) == []


def no_room(*_: Any, **__: Any) -> None:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


def test_what_does_not_fit_is_a_row_and_ends_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.plan import calibration

    monkeypatch.setattr(calibration, "train_adapters", no_room)
    told: list[tuple[float, float]] = []

    class Together:
        parties = 1
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    together: Any = Together()
    queue: Any = SimpleNamespace(put=told.append)
    threads = torch.get_num_threads()
    try:
        arrangement._actor(
            load_config(["preset=tiny"]),
            1,
            [1, 2],
            False,
            0.01,
            together,
            queue,
        )
    finally:
        torch.set_num_threads(threads)
    assert told == [(0.0, 0.0)] and together.aborted
    assert "out of memory" in arrangement._said(Arrangement(1, 1, 2, 0.0))


@pytest.mark.parametrize(("share", "set_to"), [(0.0, None), (1.0, None), (0.25, 0.25), (2.0, None)])
def test_a_part_of_a_gpu_is_a_part_of_its_memory(
    share: float, set_to: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    machine.share_gpu(share)
    assert found == ([] if set_to is None else [set_to])


def test_a_calibrated_plan_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.plan import calibration

    config = load_config(["preset=tiny"])
    monkeypatch.setattr(arrangement, "arrangements", lambda c: [Arrangement(2, 1, 8, 300.0)])
    monkeypatch.setattr(calibration, "calibrate", lambda c, s, r: (r, {}))
    grounds = command.grounds(config, {"calibrate": "true"})
    assert grounds.machine and grounds.machine["collecting"]["fastest"]
    assert "the fastest collection here" in "".join(capsys.readouterr())
