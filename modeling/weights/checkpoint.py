"""The bytes of a weight generator's checkpoint; reading and writing files is the caller's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modeling.weights.ema import EMA
from modeling.weights.interface import GeneratorConfig, GeneratorError, WeightGenerator
from modeling.weights.weight_generator import build, unwrap

MODEL_FILE, EMA_FILE, CONFIG_FILE = "model.safetensors", "ema.safetensors", "generator.json"

FORMAT = 1


class Checkpoint(NamedTuple):
    """A weight generator read back; `ema` is None if none was saved."""

    model: WeightGenerator
    ema: EMA | None
    metadata: dict[str, Any]

    @property
    def config(self) -> GeneratorConfig:
        return self.model.config


def to_files(
    model: nn.Module, ema: EMA | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files of a checkpoint by name: safetensors for weights, JSON for the rest.

    `metadata` is the caller's own (step, loss, …) and must be JSON.
    """
    inner = unwrap(model)
    header = {
        "format": FORMAT,
        "config": dataclasses.asdict(inner.config),
        "ema": None if ema is None else {"decay": ema.decay, "updates": ema.updates},
        "metadata": dict(metadata or {}),
    }
    try:
        text = json.dumps(header, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GeneratorError(f"checkpoint metadata is not plain JSON: {error}") from error
    files = {MODEL_FILE: save(_plain(inner.state_dict())), CONFIG_FILE: text.encode()}
    if ema is not None:
        ema.check_keys(inner.state_dict())
        files[EMA_FILE] = save(_plain(ema.average))
    return files


def from_files(files: Mapping[str, bytes]) -> Checkpoint:
    """Read `to_files` back, on the CPU; other files in the mapping are left alone.

    Raises GeneratorError if a file is missing or broken, or if weights and config disagree.
    """
    header = _header(files)
    model = build(GeneratorConfig.from_dict(header["config"]))
    _load_strictly(model, files, MODEL_FILE)
    ema = None
    if header["ema"] is not None:
        twin = build(model.config)
        _load_strictly(twin, files, EMA_FILE)
        ema = EMA(twin, header["ema"]["decay"])
        ema.updates = header["ema"]["updates"]
    return Checkpoint(model, ema, header["metadata"])


def _header(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        header = json.loads(_file(files, CONFIG_FILE))
    except ValueError as error:
        raise GeneratorError(f"{CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise GeneratorError(f"{CONFIG_FILE} is not of format {FORMAT}")
    missing = sorted({"config", "ema", "metadata"} - header.keys())
    if missing:
        raise GeneratorError(f"{CONFIG_FILE} lacks {missing[0]!r}")
    return header


def _load_strictly(model: nn.Module, files: Mapping[str, bytes], name: str) -> None:
    try:
        model.load_state_dict(load(_file(files, name)))
    except (SafetensorError, RuntimeError) as error:
        raise GeneratorError(f"{name} does not fit {CONFIG_FILE}: {error}") from error


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise GeneratorError(f"the checkpoint has no {name}")
    return files[name]


def _plain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in values.items()}
