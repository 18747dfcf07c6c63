"""Rates and quotas: what is left to each client, by a clock of the test's own."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serve import quotas as module
from pipelines.serve.api_keys import Keys, hashed
from pipelines.serve.app import make_app
from pipelines.serve.quotas import Quotas
from tests.pipelines.serve.fake import LIMITS, Fake, OneRun


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    quotas = Quotas(60, 3, 0, clock)
    assert [quotas.take("a") for _ in range(3)] == [0, 0, 0]
    assert quotas.take("a") == pytest.approx(1.0)
    assert quotas.take("b") == 0  # another's
    clock.now += 0.5
    assert quotas.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert quotas.take("a") == 0 and quotas.take("a") > 0
    clock.now += 3600
    assert [quotas.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_so_many_a_day() -> None:
    clock = Clock()
    quotas = Quotas(0, 0, 2, clock)
    assert quotas.take("a") == quotas.take("a") == 0
    left = quotas.take("a")
    assert 0 < left <= 86400 and (clock.now + left) % 86400 == pytest.approx(0)
    clock.now += left
    assert quotas.take("a") == 0


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 120), st.integers(1, 20))
def test_no_more_than_the_burst_and_the_rate(waits: list[float], rate: int, burst: int) -> None:
    clock = Clock()
    quotas, taken, begun = Quotas(rate, burst, 0, clock), 0, clock.now
    for wait in waits:
        clock.now += wait
        taken += quotas.take("a") == 0
        assert taken <= burst + (clock.now - begun) * rate / 60 + 1e-6


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    quotas = Quotas(1, 1, 0, Clock())
    assert all(quotas.take(who) == 0 for who in "abcd")
    assert len(quotas.clients) == 3 and quotas.take("d") > 0


def test_a_client_is_its_key() -> None:
    keys = ["the key of one client", "the key of another one"]
    known = Keys([hashed(k) for k in keys])
    client = TestClient(make_app(LIMITS, OneRun(Fake()), known, quotas=Quotas(60, 2, 0, Clock())))

    def ask(key: str, path: str = "/v1/concepts") -> int:
        return client.get(path, headers={"X-API-Key": key}).status_code

    assert [ask(keys[0]) for _ in range(3)] == [200, 200, 429]
    assert ask(keys[1]) == 200
    refused = client.get("/v1/concepts", headers={"Authorization": f"Bearer {keys[0]}"})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert "come again" in refused.json()["detail"]
    # probes and the page are not counted, nor are those who have no key
    assert ask(keys[0], "/metrics") == ask(keys[0], "/healthz") == 200
    assert ask("nobody") == 401
