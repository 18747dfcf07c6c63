"""The HTTP service on Ray Serve.

`pipelines.serve:build`, which configurations of Ray Serve name, is made when it is asked for:
importing this package loads neither torch nor ray.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "build":
        from pipelines.serve.application import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
