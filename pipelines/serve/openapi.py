"""The service's description, as docs/openapi.json: `python -m pipelines.serve.openapi` writes it.

It is made with the default limits, which are in it. A change of it is a change of what `/v1`
promises (docs/serving.md): a test fails until it is written, and so seen in review.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pipelines.config.load import load_config
from pipelines.serve.app import of_run
from pipelines.serve.middleware import Counts
from pipelines.serve.runs.limits import limits
from pipelines.serve.runs.served import ONLY, Model, Served

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


class _Nothing:
    """Answers nothing."""

    def backend(self, served: Served) -> None: ...


def document() -> str:
    """JSON, the same for the same code."""
    served = Served(ONLY, Model("", ""), limits(load_config([])))
    described = of_run(served, cast(Any, _Nothing()), Counts()).openapi()
    described["info"]["version"] = "1"  # of /v1, not of the package
    return json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
    print(FILE)
