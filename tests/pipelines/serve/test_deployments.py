"""The part that predicts adapters, without Ray: whom it works for, and what it keeps."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import torch

from modeling.text import TextEmbedding
from pipelines.config import tree as config_tree
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.deployments import Asked, Weights
from pipelines.serve.runs.describing import configured
from pipelines.serve.runs.served import Model
from pipelines.use.adapter_names import Ask, name_of
from pipelines.use.parts import Loaded, WeightPart
from tests.pipelines.use.untrained_run import TEXT_DIM, told


class Encoder:
    async def remote(self, model: Model, text: str) -> TextEmbedding:
        return TextEmbedding(torch.zeros(2, TEXT_DIM), torch.zeros(TEXT_DIM))


def predicting(run: RunDir, seconds: float) -> tuple[Weights, Model, list[int]]:
    """The part, keeping two adapters, each predicted in so many seconds; seeds of those made.

    Serve takes what is cancelled out of a batch; its batches are for copies alone, so there is
    another one here.
    """
    given = told(run, "serve.cache=2")
    text, table = SimpleNamespace(encode=Encoder()), configured(given)
    weights = Weights(config_tree.to_dict(given), table, text)
    made: list[int] = []

    async def predict(asked: Asked[WeightPart, tuple[Ask, TextEmbedding]]) -> Any:
        part, ask = asked.taken()
        await asyncio.sleep(seconds)
        made.append(ask[0].seed)
        return part.predict([ask])[0]

    weights._predict = predict
    return weights, table.runs[0].model, made


def name(seed: int) -> str:
    return name_of(Ask("a", seed, 900, 1), "")


def test_what_nobody_waits_for_is_not_made(run: RunDir) -> None:
    """Four requests wait for three adapters; two of them go."""

    async def main() -> tuple[list[Any], list[int]]:
        weights, model, made = predicting(run, 0.3)
        asked = [asyncio.create_task(weights.load(model, name(seed))) for seed in (0, 1, 1, 2)]
        await asyncio.sleep(0.1)
        asked[2].cancel()  # its twin still waits
        asked[3].cancel()
        return await asyncio.gather(*asked, return_exceptions=True), made

    (zero, one, *gone), made = asyncio.run(main())
    assert isinstance(zero, Loaded) and isinstance(one, Loaded)
    assert all(isinstance(g, asyncio.CancelledError) for g in gone)
    assert made == [0, 1]


def test_the_adapters_asked_for_last_are_kept(run: RunDir) -> None:
    """Room for two: the third takes the place of the one that nobody asked for again."""

    async def main() -> list[int]:
        weights, model, made = predicting(run, 0.0)
        for seed in (0, 1, 0, 2, 0, 1):
            await weights.load(model, name(seed))
        return made

    assert asyncio.run(main()) == [0, 1, 2, 1]
