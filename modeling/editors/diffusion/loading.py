"""What diffusers would load without a word: folders and weights that are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn


def check_folder(model: str) -> None:
    """Raise OSError where a local folder is missing or lacks a component that its index names.

    Without its files, some components (tokenizers) would load as empty ones.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.count("/") != 1 or model.startswith((".", "~")):
            raise FileNotFoundError("no such folder")
        return  # a hub id
    index = folder / "model_index.json"
    if not index.is_file():
        return  # a single component; or from_pretrained says what is missing
    try:
        components = json.loads(index.read_text())
    except ValueError as error:
        raise OSError("model_index.json is damaged") from error
    for name, kind in components.items():
        named = isinstance(kind, list) and len(kind) == 2 and kind[0] is not None
        if named and not any((folder / name).glob("*")):
            raise FileNotFoundError(f"it lacks {name}")


def check_weights(loaded: Any) -> None:
    """Raise OSError where diffusers found no weights for a parameter: it is on the meta device."""
    for part in getattr(loaded, "components", {"": loaded}).values():
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            if parameter.is_meta:
                raise OSError(f"a {type(part).__name__} without {name}")
