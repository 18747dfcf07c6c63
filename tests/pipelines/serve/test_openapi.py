"""What `/v1` promises changes only where it is said."""

from __future__ import annotations

from pipelines.serve.openapi import FILE, document


def test_the_description_is_the_one_that_is_committed() -> None:
    assert FILE.read_text() == document(), (
        "the API has changed: write docs/openapi.json by `python -m pipelines.serve.openapi`, and"
        " say it in CHANGELOG.md (docs/serving.md has what may change in /v1)"
    )
