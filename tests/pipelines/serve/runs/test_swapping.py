"""What Ray's store remembers of a change, and who may not undo it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipelines.serve.runs import swapping
from pipelines.serve.runs.served import Model, Served, Table
from pipelines.serve.runs.swapping import current, remember
from tests.pipelines.serve.fake import LIMITS


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """In place of Ray's."""
    kept: dict[bytes, bytes] = {}

    def put(key: bytes, value: bytes, *, overwrite: bool, namespace: bytes) -> None:
        kept[key] = value

    fake = SimpleNamespace(
        _internal_kv_initialized=lambda: True,
        _internal_kv_get=lambda key, namespace: kept.get(key),
        _internal_kv_put=put,
    )
    monkeypatch.setattr(swapping, "internal_kv", fake)
    return kept


def table_of(*uris: str, max_text: int = LIMITS.max_text) -> Table:
    limits = replace(LIMITS, max_text=max_text)
    return Table(tuple(Served(f"run{i}", Model(u, "0" * 64), limits) for i, u in enumerate(uris)))


def test_a_change_holds_until_other_runs_are_configured() -> None:
    configured = table_of("a", "b")
    changed = configured.with_run(Served("run1", Model("c", "1" * 64), replace(LIMITS, size=8)))
    assert current(configured) == configured
    remember(configured, changed)
    assert current(configured) == changed
    assert current(configured).former == ("b",)
    # the same runs with another key of the service: the change stays, the key is the new one
    longer = current(table_of("a", "b", max_text=99))
    assert [s.model for s in longer.runs] == [s.model for s in changed.runs]
    assert {s.limits.max_text for s in longer.runs} == {99} and longer.runs[1].limits.size == 8
    # other runs, or one that was made again: what is configured
    other = table_of("a", "d")
    assert current(other) == other


def test_a_service_of_other_runs_in_between_ends_a_change() -> None:
    first, second = table_of("a"), table_of("b")
    remember(first, first.with_run(Served("run0", Model("c", "1" * 64), LIMITS)))
    given = swapping.config_tree.to_dict(swapping.config_tree.from_dict({}))
    swapping.Runs(given, second)
    assert current(second) == second
    swapping.Runs(given, first)
    assert current(first) == first


def test_without_ray_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of("a")
    remember(table, table_of("b"))
    monkeypatch.setattr(swapping.internal_kv, "_internal_kv_initialized", lambda: False)
    assert current(table) == table
