"""Requests that the description of the API allows, and others, never make the server fail."""

from __future__ import annotations

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app_clients import LocalServer
from panoseg.app.settings import Limits

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    response_schema_conformance,
    content_type_conformance,
]
EXAMPLES = 4


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    server = LocalServer(
        tmp_path_factory.mktemp("schema"),
        public_host=("testserver",),
        limits=Limits(jobs=5, upload_mib=1),
    )
    yield schemathesis.openapi.from_asgi("/openapi.json", server.app)
    server.service.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_answer_is_a_failure_of_the_server(api, mode):
    called: set[str] = set()
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            called.add(case.operation.label)
            case.call_and_validate(checks=CHECKS)

        with contextlib.suppress(
            Unsatisfiable
        ):  # nothing is wrong for an operation that takes anything
            check()
    assert len(called) >= (30 if mode == GenerationMode.POSITIVE else 15)
