"""Models that come and go in one process: loaded once, answered together, freed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from modeling.text import TextEncoder
from pipelines.config import tree as config_tree
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.deployments import Asked, Text, Translator, Weights, each_by_its_part
from pipelines.serve.runs.describing import configured, describe
from pipelines.serve.runs.held import Held
from pipelines.serve.runs.served import FORMER, Model, RunRefusedError, Table, UnknownRunError
from pipelines.use.adapter_names import Ask, OtherModelError, name_of
from tests.pipelines.use.untrained_run import make_run, told


class Handle:
    """A method of another part, called as through Serve."""

    def __init__(self, method: object) -> None:
        self.remote = method


@pytest.fixture
def other(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "other", seed=1)


def test_a_model_is_loaded_once_and_freed_when_it_goes(run: RunDir, other: RunDir) -> None:
    """Weight generator, translator with its merged adapters, text: nothing of it is left."""
    given = told(run)
    table, new = configured(given), describe("other", other.uri, given)
    tree = config_tree.to_dict(given)
    text = Text(tree, table)
    handle = type("Handles", (), {"dim": Handle(text.dim), "encode": Handle(text.encode)})
    weights = Weights(tree, table, handle)
    translator = Translator(tree, table, type("Handles", (), {"load": Handle(weights.load)}))
    picture = np.full((32, 32, 3), 99, np.uint8)
    name = name_of(Ask("red hair", 0, 900, 1), "")

    async def main() -> list[weakref.ref[object]]:
        weights._predict, text._encode = one_by_one("predict"), one_by_one("encode")
        for part in (text, weights, translator):
            assert await part.hold(new.model) == ""
        made = [await translator.merged(model, name) for model in (table.models[0], new.model)]
        parts = [holding.held.parts for holding in (text, weights, translator)]
        assert all(len(held) == 2 for held in parts)
        edits = [
            held.translate([(picture, [merged])])[0]
            for held, merged in zip(translator.held.parts.values(), made, strict=True)
        ]
        assert (edits[0] != edits[1]).any()
        gone = [weakref.ref(held[new.model.key]) for held in parts]
        gone += [weakref.ref(next(iter(made[1].state.values())))]
        for part in (text, weights, translator):
            await part.keep(table.models)
            assert list(part.held.parts) == [table.models[0].key]
        assert {key for key, _ in weights.kept} == {table.models[0].key}
        # who comes late finds it again
        assert (await translator.merged(new.model, name)).state.keys() == made[1].state.keys()
        for part in (text, weights, translator):
            await part.keep(table.models)
        return gone

    gone = asyncio.run(main())
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4
    assert isinstance(text.held.parts[table.models[0].key].encoder, TextEncoder)


def one_by_one(method: str) -> object:
    """Serve's batches are for its copies alone."""

    async def work(asked: Asked[object, object]) -> object:
        (made,) = each_by_its_part([asked], lambda part, asks: getattr(part, method)(asks))
        return made

    return work


def test_a_run_that_was_made_again_is_not_taken_for_the_one_before(
    run: RunDir, other: RunDir
) -> None:
    given = told(run)
    held = Held(lambda config, of: of.uri, given)
    served = describe("a", other.uri, given)
    assert held.load(served.model) == other.uri
    held.keep([])
    shutil.rmtree(other.uri)
    make_run(Path(other.uri), seed=2)
    with pytest.raises(OtherModelError, match="made again"):
        held.load(served.model)
    with pytest.raises(OtherModelError, match="made again"):
        held.load_all([served.model])
    good = configured(given).models[0]
    held.load_all([served.model, good])  # the other run's clients go on
    assert list(held.parts) == [good.key]


def test_requests_of_two_parts_are_answered_in_their_order() -> None:
    a, b = "a", "b"
    asks = [Asked(part, n) for part, n in ((a, 1), (b, 2), (a, 3), (b, 4))]
    assert each_by_its_part(asks, lambda part, ns: [f"{part}{n}{len(ns)}" for n in ns]) == [
        *("a12", "b22", "a32", "b42")
    ]
    assert all(ask.it is None for ask in asks)  # Serve keeps a batch until the next one


def test_the_table_remembers_what_was_served(run: RunDir) -> None:
    (first,) = configured(told(run)).runs

    def named(name: str, uri: str) -> Table:
        return table.with_run(type(first)(name, Model(uri, "0"), first.limits))

    table = Table((first,))
    assert table.of("") is table.of(first.name) is first
    table = named("b", "x")
    table = named("b", "y")
    assert [s.name for s in table.runs] == [first.name, "b"] and table.former == ("x",)
    table = named("b", "x")
    assert table.former == ("y",)
    for i in range(2 * FORMER):
        table = named("b", f"run {i}")
    assert len(table.former) == FORMER and table.former[-1] == f"run {2 * FORMER - 2}"
    with pytest.raises(RunRefusedError):
        table.without(first.name)
    table = table.without("b")
    with pytest.raises(UnknownRunError):
        table.of("b")
