"""The service's description, as docs/openapi.json: `python -m pipelines.serve.openapi` writes it.

It is made with the default limits, which are in it. A change of it is a change of what `/v1`
promises (docs/serving.md): a test fails until it is written, and so seen in review.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pipelines.config.load import load_config
from pipelines.serve.app import make_app
from pipelines.serve.application import limits

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


def document() -> str:
    """JSON, the same for the same code."""
    app = make_app(limits(load_config([])), cast(Any, None))
    described = app.openapi()
    described["info"]["version"] = "1"  # of /v1, not of the package
    return json.dumps(described, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
    print(FILE)
