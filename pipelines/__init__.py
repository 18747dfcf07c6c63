"""The stages, the service, the command line; `Run`, a finished run in Python (pipelines/use)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.use.run import Adapter, Run

__all__ = ["Adapter", "Run"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for: commands that need neither torch nor Ray import this package, too."""
    if name in __all__:
        from pipelines.use import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
