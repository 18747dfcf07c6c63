"""Requests drawn from the service's own OpenAPI description: no answer is a failure of ours."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipelines.serve.app import make_app
from tests.pipelines.serve.fake import LIMITS, SMALL, Fake, OneRun, encoded

schemathesis.openapi.media_type("image/png", st.just(encoded(SMALL, "PNG")))


class Ready(Fake):
    async def about(self) -> dict[str, Any]:
        return {"model": "0" * 64}


schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(LIMITS, OneRun(Ready())))


CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def fuzzed(operation: Any) -> Any:
    """A test of one operation."""

    @schema.include(method=operation.method.upper(), path=operation.path).parametrize()
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def test(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    return test


# A name each: of one name for all, as schemathesis gives, pytest-xdist runs the first alone
for found in schema.get_all_operations():
    about = found.ok()
    name = f"test_any_request_gets_an_answer_that_the_description_knows[{about.label}]"
    globals()[name] = fuzzed(about)
