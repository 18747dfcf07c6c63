"""What fits in memory is found by halving, and known the next time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from modeling.fitting import MOST, Fit, memory_file, out_of_memory

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "denoised-weights" / "fitting.json"


class Memory:
    """Room for so many items at once."""

    def __init__(self, room: int) -> None:
        self.room, self.fails = room, 0
        self.tried: list[int] = []

    def call(self, items: list[int]) -> list[int]:
        self.tried.append(len(items))
        self.fails -= 1
        if len(items) > self.room or self.fails >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * i for i in items]


def doubled(fit: Fit, memory: Memory, count: int) -> list[int | None]:
    out: list[int | None] = []
    for some, made in fit.pieces(range(count), memory.call):
        out += [None] * len(some) if made is None else made
    return out


@pytest.mark.parametrize("given", [0, 1, 3, 8, 100])
@pytest.mark.parametrize("room", [1, 2, 5, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_everything_is_done_once_and_in_order(given: int, room: int, count: int) -> None:
    assert doubled(Fit("work", given, CPU), Memory(room), count) == [10 * i for i in range(count)]


def test_what_has_fitted_is_tried_once_more() -> None:
    """Another process had the memory for a moment."""
    memory = Memory(4)
    fit = Fit("work", 0, CPU)
    doubled(fit, memory, 8)
    tried = len(memory.tried)
    memory.fails = 1
    assert doubled(fit, memory, 8) == [10 * i for i in range(8)]
    assert memory.tried[tried:] == [4, 4, 4] and fit.size == 4


def test_of_two_processes_the_fewest_count(cache: Path) -> None:
    first, second = Fit("work", 0, CPU), Fit("work", 0, CPU)
    doubled(first, Memory(1), 8)
    doubled(second, Memory(4), 8)
    assert Fit("work", 0, CPU).size == 1


def test_no_room_for_one_is_said_of_each() -> None:
    memory = Memory(0)
    assert doubled(Fit("work", 4, CPU), memory, 3) == [None] * 3
    assert memory.tried == [3, 1, 1, 1]


def test_what_did_not_fit_is_not_tried_again(cache: Path) -> None:
    memory = Memory(2)
    fit = Fit("work", 0, CPU)
    doubled(fit, memory, 20)
    assert memory.tried[:3] == [MOST["cpu"], 4, 2] and set(memory.tried[3:]) == {2}
    assert memory_file() == cache and json.loads(cache.read_text()) == {"cpu, work": 2}
    # the next process
    memory.tried.clear()
    doubled(Fit("work", 0, CPU), memory, 4)
    assert memory.tried == [2, 2]
    # other work, and a number that somebody gave, are as they were
    assert Fit("other", 0, CPU).size == MOST["cpu"] and Fit("work", 6, CPU).size == 6


def test_a_number_that_was_given_is_not_remembered(cache: Path) -> None:
    doubled(Fit("work", 8, CPU), Memory(2), 8)
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cpu, work": "many"}', '{"cpu, work": 0}'])
def test_a_damaged_memory_is_none(cache: Path, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert Fit("work", 0, CPU).size == MOST["cpu"]
    doubled(Fit("work", 0, CPU), Memory(1), 8)
    assert Fit("work", 0, CPU).size == 1


def test_a_home_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert doubled(Fit("work", 0, CPU), Memory(2), 4) == [0, 10, 20, 30]


def test_another_error_is_not_swallowed() -> None:
    def call(items: list[int]) -> list[int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(Fit("work", 0, CPU).pieces([1], call))
    assert not out_of_memory(RuntimeError("shapes differ"))
