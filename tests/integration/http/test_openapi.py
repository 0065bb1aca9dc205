"""Whatever fits the OpenAPI document, and whatever does not: no 5xx, and answers as documented."""

from typing import Any

import pytest
import schemathesis
from httpx2 import InvalidURL
from hypothesis import HealthCheck, Phase, given, reject, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.gateway import build_api
from serve.settings import ServeSettings
from tests.integration.http.conftest import Stack

EXAMPLES = 15
KNOWN = {"user_id": "u", "item_id": "i1"}
"""Every other request asks about these, which exist."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENT = build_api(ServeSettings(), None).openapi()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_the_document_names(stack: Stack, mode: GenerationMode) -> None:
    event = {"user_id": "u", "kind": "click", "item_id": "i2"}
    assert stack.replicas[0].post("/v1/events", json=event).status_code == 200
    asked: dict[str, list[int]] = {}
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        operation = found.ok()
        said = DOCUMENT["paths"][operation.path][operation.method]
        if mode is GenerationMode.NEGATIVE and not {"parameters", "requestBody"} & said.keys():
            continue  # it takes nothing that could be wrong
        statuses = asked.setdefault(f"{operation.method.upper()} {operation.path}", [])
        ask(stack, operation.as_strategy(generation_mode=mode), statuses)
    assert len(asked) >= 12
    assert all(asked.values())
    everything = set().union(*asked.values())
    assert {422} <= everything if mode is GenerationMode.NEGATIVE else {200, 404} <= everything


def ask(stack: Stack, cases: Any, statuses: list[int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def one(case: Any) -> None:
        if len(statuses) % 2:
            there = {n: KNOWN.get(n, v) for n, v in (case.path_parameters or {}).items()}
            case.path_parameters = {**(case.path_parameters or {}), **there}
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
        sent.pop("cookies", None)
        try:
            answer = stack.replicas[0].request(**sent)
        except InvalidURL:
            reject()  # longer than the client sends: no request was made, another case is drawn
        statuses.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    one()
