"""A training has the threads with which it is fastest, whoever else uses the machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.runtime import session
from pipelines.runtime.session import training_threads
from pipelines.runtime.threads import EVERY, TRIED, Threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Machine:
    """Steps take as long as `seconds` says for a number of threads."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds, self.time, self.threads = seconds, 0.0, 0
        self.set: list[int] = []

    def set_threads(self, count: int) -> None:
        self.threads = count
        self.set.append(count)

    def training(self, most: int, fixed: bool = False) -> Threads:
        return Threads(most, fixed, self.set_threads, lambda: self.time)

    def steps(self, threads: Threads, seconds: float) -> int:
        """How many are made in so many seconds."""
        until, count = self.time + seconds, 0
        while self.time < until:
            with threads.step():
                self.time += self.seconds(self.threads)
            count += 1
        return count


def alone(count: int) -> float:
    return 0.1 / count


def shared(count: int) -> float:
    """One core is somebody else's."""
    return 0.1 if count == 1 else 0.5


@pytest.mark.parametrize("most", [2, 3, 8])
@pytest.mark.parametrize(("seconds", "fewest"), [(alone, False), (shared, True)])
def test_the_fastest_number_is_taken(
    most: int, seconds: Callable[[int], float], fewest: bool
) -> None:
    machine = Machine(seconds)
    threads = machine.training(most)
    machine.steps(threads, EVERY / 2)
    assert threads.now == machine.threads == (1 if fewest else most)


def test_who_comes_and_goes_is_noticed() -> None:
    machine = Machine(alone)
    threads = machine.training(2)
    for seconds, expected in ((alone, 2), (shared, 1), (alone, 2)):
        machine.seconds = seconds
        machine.steps(threads, 2 * EVERY)
        assert threads.now == expected


@pytest.mark.parametrize("most", [2, 16, 64])
@pytest.mark.parametrize("step", [0.1, 1.5])
def test_trying_costs_little(most: int, step: float) -> None:
    """step: seconds with all threads."""
    machine = Machine(lambda count: step * most / count)
    made = machine.steps(machine.training(most), 100 * EVERY)
    assert made > 0.85 * 100 * EVERY / step


def test_as_many_threads_make_no_step_slower_by_chance() -> None:
    """Nearly as fast with fewer is no reason to change."""
    machine = Machine(lambda count: 0.1 if count > 1 else 0.098)
    threads = machine.training(2)
    machine.steps(threads, EVERY / 2)
    assert threads.now == 2


@pytest.mark.parametrize(("most", "fixed"), [(1, False), (1, True), (4, True)])
def test_where_there_is_no_choice_nothing_is_tried(most: int, fixed: bool) -> None:
    machine = Machine(shared)
    machine.steps(machine.training(most, fixed), 3 * EVERY)
    assert machine.set == [most]


def test_an_error_passes() -> None:
    threads = Machine(alone).training(2)
    for _ in range(2 * TRIED):
        with pytest.raises(FloatingPointError), threads.step():
            raise FloatingPointError


@pytest.mark.parametrize(
    ("words", "workers", "device", "tried"),
    [
        ([], 1, CPU, True),
        ([], 1, GPU, False),  # whose work is not done by threads
        ([], 2, CPU, False),  # who wait for each other
        (["cluster.training_threads=2"], 1, CPU, False),
        (["cluster.compile=true"], 1, CPU, False),  # for a number of threads
    ],
)
def test_when_a_stage_tries(
    words: list[str],
    workers: int,
    device: torch.device,
    tried: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "cores", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    threads = training_threads(load_config(["preset=small", *words]), workers, device)
    assert (len(threads.choices) > 1) == tried
