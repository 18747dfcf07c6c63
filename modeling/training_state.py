"""Everything a stopped training needs to go on, as plain tensors (safetensors, no pickle)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor, nn


def pack(
    modules: Mapping[str, nn.Module | Mapping[str, Tensor]],
    optimisers: Mapping[str, torch.optim.Optimizer],
    step: int,
) -> bytes:
    """Modules' (or plain dicts') tensors, the optimisers' per-parameter state and the step."""
    tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
    for name, module in modules.items():
        state = module.state_dict() if isinstance(module, nn.Module) else module
        tensors |= {f"module.{name}.{k}": v for k, v in state.items()}
    for name, optimiser in optimisers.items():
        for index, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimiser.{name}.{index}.{key}"] = torch.as_tensor(value)
    # clones: safetensors refuses tensors that share memory
    return save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})


def unpack(
    data: bytes,
    modules: Mapping[str, nn.Module | dict[str, Tensor]],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> int:
    """Inverse of `pack`, strict, in place; returns the step."""
    tensors = load(data)
    for name, module in modules.items():
        state = _under(tensors, f"module.{name}.")
        if isinstance(module, nn.Module):
            module.load_state_dict(state)
        else:
            if module.keys() != state.keys():
                raise ValueError(f"saved training state of {name!r} has other keys")
            for key, value in state.items():
                module[key].copy_(value)
    for name, optimiser in optimisers.items():
        saved: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimiser.{name}.").items():
            index, _, field = key.partition(".")
            saved.setdefault(int(index), {})[field] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": saved})
    return int(tensors["step"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
