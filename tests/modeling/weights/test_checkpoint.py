"""Checkpoints of weight generators, and the configurations that they hold."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from modeling.weights.checkpoint import CONFIG_FILE, EMA_FILE, MODEL_FILE, from_files, to_files
from modeling.weights.ema import EMA
from modeling.weights.interface import GeneratorConfig, GeneratorError
from tests.modeling.weights.tiny_generators import BOTH, TRANSFORMER, UNET, inputs, make, text_of


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "gan"}, "kind"),
        ({"prediction": "eps"}, "prediction"),
        ({"schedule": "cosine"}, "schedule"),
        ({"width": 30}, "heads"),
        ({"depth": 0}, "depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"kind": "unet", "block_size": 7}, "8 or more"),
        ({"kind": "unet", "channels": ()}, "channels"),
        ({"kind": "unet", "fold": 3}, "fold"),
        ({"kind": "unet", "channels": (8, 18)}, "heads"),
    ],
)
def test_bad_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        GeneratorConfig(**(TRANSFORMER | changes))


def test_config_survives_json_and_refuses_unknown_options() -> None:
    config = GeneratorConfig(**UNET)
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert GeneratorConfig.from_dict(values) == config
    with pytest.raises(GeneratorError, match="'levels'"):
        GeneratorConfig.from_dict(values | {"levels": 3})
    with pytest.raises(GeneratorError, match="text_dim"):
        GeneratorConfig.from_dict({k: v for k, v in values.items() if k != "text_dim"})


@BOTH
def test_checkpoint_round_trip(options: dict[str, Any]) -> None:
    model = make(options)
    ema = EMA(model, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    ema.update(model)
    files = to_files(model, ema, {"step": 7, "loss": 0.5})
    assert set(files) == {MODEL_FILE, EMA_FILE, CONFIG_FILE}
    assert all(isinstance(v, bytes) for v in files.values())
    back = from_files(files | {"layout.json": b"the caller's"})
    assert back.config == model.config and back.metadata == {"step": 7, "loss": 0.5}
    assert back.ema is not None and (back.ema.decay, back.ema.updates) == (0.9, 1)
    for ours, theirs in (
        (model.state_dict(), back.model.state_dict()),
        (ema.average, back.ema.average),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    args = (*inputs(model), *text_of(3))
    assert torch.equal(model(*args), back.model.eval()(*args))
    assert to_files(back.model, back.ema, back.metadata) == files


def test_checkpoints_that_do_not_fit_are_refused() -> None:
    model = make(TRANSFORMER)
    files = to_files(model, EMA(model))
    assert from_files(to_files(model)).ema is None
    for name in files:
        with pytest.raises(GeneratorError, match=f"no {name}"):
            from_files({k: v for k, v in files.items() if k != name})
        with pytest.raises(GeneratorError, match=name):
            from_files(files | {name: files[name][:-5]})
    wider = to_files(make(TRANSFORMER, width=64))
    with pytest.raises(GeneratorError, match="does not fit"):
        from_files(files | {MODEL_FILE: wider[MODEL_FILE]})
    deeper = to_files(make(TRANSFORMER, depth=3))
    with pytest.raises(GeneratorError, match="does not fit"):
        from_files(files | {EMA_FILE: deeper[MODEL_FILE]})
    header = json.loads(files[CONFIG_FILE])
    for changed, message in (
        (header | {"format": 2}, "format"),
        ({k: v for k, v in header.items() if k != "ema"}, "lacks 'ema'"),
        (header | {"config": header["config"] | {"extra": 1}}, "'extra'"),
    ):
        with pytest.raises(GeneratorError, match=message):
            from_files(files | {CONFIG_FILE: json.dumps(changed).encode()})
    with pytest.raises(GeneratorError, match="JSON"):
        to_files(model, metadata={"loss": math.nan})
