"""What a layer of a target network is to an adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerGroup:
    """One layer's adapter keys: LoRA A and B (both "" for a norm alone), and norm affines."""

    name: str
    a: str
    b: str
    norm: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order A, B, norm."""
        return tuple(k for k in (self.a, self.b) if k) + self.norm
