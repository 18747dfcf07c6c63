"""In which numbers a process trains: float32, TF32, or bfloat16 where autocast takes it.

Weights, gradients' sums, optimisers, losses, averages, the codec and what is scored are float32 in
any case; TF32 rounds the factors of products on a GPU to ten bits, autocast makes a network's
passes in bfloat16. Like torch's own switches it holds for the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUTO, FLOAT32, TF32, BFLOAT16 = PRECISIONS = ("auto", "float32", "tf32", "bfloat16")

_autocast: torch.dtype | None = None


def resolved(name: str, device_type: str) -> str:
    """What it comes to on a device: TF32 is a GPU's, elsewhere it and `auto` are float32."""
    if name not in PRECISIONS:
        raise ValueError(f"precision={name}: one of {', '.join(PRECISIONS)}")
    if name == BFLOAT16:
        return name
    return TF32 if name != FLOAT32 and device_type == "cuda" else FLOAT32


def use(name: str, device: torch.device | str) -> None:
    """From here on in this process; ValueError for an unknown name."""
    import torch  # the configuration, which knows the names, does without

    global _autocast
    kind = torch.device(device).type
    name = resolved(name, kind)
    _autocast = torch.bfloat16 if name == BFLOAT16 else None
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # a stage's few shapes come back thousands of times
        torch.backends.cudnn.allow_tf32 = name != FLOAT32
        torch.set_float32_matmul_precision("highest" if name == FLOAT32 else "high")


def training_pass(network: Callable[..., Tensor], *inputs: Any, **more: Any) -> Tensor:
    """What a network says in a training step: its forward pass by autocast, the result float32."""
    if _autocast is None:
        return network(*inputs, **more)
    import torch

    device = next(x for x in (*inputs, *more.values()) if isinstance(x, torch.Tensor)).device
    with torch.autocast(device.type, _autocast):
        return network(*inputs, **more).float()
