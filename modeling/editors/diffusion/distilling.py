"""What makes a published model one of few steps: a LoRA that is merged into it, and a scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling.editors.interface import EditError
from modeling.reasons import one_line


def merge_lora(pipeline: Any, lora: str, editor: str, allow_download: bool) -> None:
    """Merge a LoRA (EditorOptions.lora) into the pipeline; EditError that says how to get it.

    Merged, it costs nothing in an edit, and what is compiled or quantised is one network.
    """
    path = Path(lora)
    folder, _, file = lora.rpartition(":")
    try:
        if path.suffix != ".safetensors":
            raise ValueError("neither FILE.safetensors nor OWNER/NAME:FILE.safetensors")
        if path.is_file():
            folder, file = str(path.parent), path.name
        elif not folder:
            raise FileNotFoundError("no such file")
        pipeline.load_lora_weights(
            folder,
            weight_name=file,
            local_files_only=not allow_download,
            use_safetensors=True,
        )
        if not pipeline.get_list_adapters():
            raise ValueError("none of its weights is of this model")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except Exception as error:  # a foreign file raises whatever diffusers' converters do
        raise EditError(
            f"the editor {editor!r} cannot load the LoRA {lora!r} ({one_line(error)}). Give a"
            f" file with safetensors (editing.loras.{editor}=FILE), or allow the download"
            " (allow_download=true)"
        ) from error


def scheduler_by(words: str, config: Mapping[str, Any]) -> Any:
    """A scheduler by its name and settings, with a model's own noise schedule (`config`).

    Raises ValueError for a name or a setting that diffusers does not know.
    """
    import diffusers

    name, *settings = words.split()
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise ValueError(f"diffusers has no scheduler {name!r}")
    known = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            raise ValueError(f"{name} has no setting {key!r}")
        given[key] = _value(value)
    return kind.from_config(config, **given)


def _value(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)
