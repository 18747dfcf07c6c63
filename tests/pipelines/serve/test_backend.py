"""Calls of parts whose copies die."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
from ray.exceptions import RayActorError

from pipelines.serve.backend import ATTEMPTS, REFUSALS, answered, refusing
from pipelines.use.finetune_request import BusyError


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds between the calls, which nobody sleeps."""
    seconds: list[float] = []

    async def sleep(time: float) -> None:
        seconds.append(time)

    monkeypatch.setattr(answered.retry, "sleep", sleep)
    yield seconds


class Part:
    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    async def remote(self) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_a_dead_copy_is_asked_again(waited: list[float]) -> None:
    part = Part(RayActorError(), RayActorError(), 7)
    assert asyncio.run(answered(part.remote)) == 7
    assert waited == pytest.approx([0.1, 0.2])


def test_a_part_that_stays_away_is_busy(waited: list[float]) -> None:
    part = Part(*[RayActorError() for _ in range(ATTEMPTS + 1)])
    with pytest.raises(BusyError):
        asyncio.run(answered(part.remote))
    assert len(part.answers) == 1 and 2.5 < sum(waited) < 4


@pytest.mark.parametrize("error", [ValueError("wrong"), asyncio.CancelledError()])
def test_what_a_part_says_is_passed_on_at_once(error: BaseException, waited: list[float]) -> None:
    with pytest.raises(type(error)):
        asyncio.run(answered(Part(error, 7).remote))
    assert waited == []


@pytest.mark.parametrize("error", [kind("why") for kind in REFUSALS])
def test_a_refusal_is_an_answer_and_raised_by_who_asked(error: Exception) -> None:
    """What a part raises, Ray Serve writes to the log with its traceback."""

    class Refusing:
        @refusing
        async def part(self, fails: bool) -> int:
            if fails:
                raise error
            return 7

    told = asyncio.run(Refusing().part(True))
    assert pickle.loads(pickle.dumps(told)).error.args == ("why",)
    with pytest.raises(type(error), match="why"):
        asyncio.run(answered(lambda: Refusing().part(True)))
    assert asyncio.run(answered(lambda: Refusing().part(False))) == 7


def test_the_http_part_needs_no_torch() -> None:
    """What its processes import (test_service looks at the processes themselves)."""
    code = (
        "import sys, pipelines.serve.app, pipelines.serve.backend; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
