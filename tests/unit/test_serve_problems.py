"""Problem documents: whatever is refused can be said in JSON, and in the client's own words."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from starlette.testclient import TestClient

from serve.gateway import RequestId
from serve.problems import (
    REQUEST_ID,
    FieldError,
    ProblemError,
    _field_error,
    field_path,
    install,
    not_found,
    problem_response,
    shorten,
)
from serve.routes.context import parse_attributes
from serve.schemas.events import EventsBody


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (("query", "k"), "k"),
        (("path", "item_id"), "item_id"),
        (("body",), "body"),
        (("body", "items", 2, "title"), "items[2].title"),
        (("body", "batch", "events", 3, "click", "item_id"), "events[3].item_id"),
        (("body", "single", "search", "text"), "text"),
        (("query", "exclude", 0), "exclude[0]"),
    ],
)
def test_the_path_of_a_field(location: tuple[str | int, ...], path: str) -> None:
    assert field_path(location) == path


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 7, -(2**63) - 1, 10**400, 0.5, float("nan"), float("inf")),
        *("\ud800", "x" * 999, b"\xff", {"a": [1]}),
    ],
    ids=repr,
)
def test_any_value_can_be_echoed(value: Any) -> None:
    problem = ProblemError(422, "t", "d \ud800", [FieldError("f\ud800", value, "a")])
    document = json.loads(problem_response(problem).body)
    assert document["errors"][0]["field"] == "f\\ud800"
    assert len(str(document["errors"][0]["value"])) <= 203


def test_a_value_is_echoed_as_it_is_where_it_can_be() -> None:
    assert [shorten(v) for v in (None, False, 3, 1.5, "a")] == [None, False, 3, 1.5, "a"]


def test_retry_after_is_a_header() -> None:
    missing = problem_response(not_found("item", "i"))
    assert missing.status_code == 404
    assert "retry-after" not in missing.headers
    assert (
        problem_response(ProblemError(503, "t", "d", retry_after_s=3)).headers["retry-after"] == "3"
    )


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"kind": "dance", "user_id": "u"}, "kind", "dance"),
        ({"user_id": "u"}, "kind", None),
        ({"events": [{"kind": "dance"}]}, "events[0].kind", "dance"),
        ([], "body", []),
    ],
)
def test_an_unknown_kind_is_said_as_a_kind(body: Any, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(EventsBody).validate_python(body)
    error = _field_error(dict(caught.value.errors()[0]))
    assert (error.field, error.value) == (field, value)
    assert "click" in error.accepted or field == "body"


def test_attribute_filters_are_typed() -> None:
    asked = ["a:1", "b:1.5", "c:true", "d:x:y", "e:", "f:1e999", "g:nan", 'h:"1"', 'i:"']
    assert parse_attributes(asked) == {
        "a": (1, "1"),
        "b": (1.5, "1.5"),
        "c": (True, "true"),
        "d": "x:y",
        "e": "",
        "f": "1e999",
        "g": "nan",
        "h": "1",
        "i": '"',
    }
    for bad in (["x"], [":1"], ["a:1", "a:2"], [f"a{n}:1" for n in range(11)]):
        with pytest.raises(ProblemError):
            parse_attributes(bad)


def test_a_bug_of_ours_is_told_from_a_proxys_by_its_request_id() -> None:
    api = FastAPI()
    install(api)
    api.add_middleware(RequestId)

    @api.get("/bug")
    async def bug() -> None:
        raise KeyError("ours")

    answer = TestClient(api, raise_server_exceptions=False).get("/bug")
    assert answer.status_code == 500
    assert len(answer.headers[REQUEST_ID]) == 32
    assert answer.json()["detail"] == "KeyError"


def test_a_missing_field_has_no_value() -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(EventsBody).validate_python({"kind": "click", "user_id": "u"})
    errors = [_field_error(error) for error in refused.value.errors()]
    assert [(error.field, error.value) for error in errors] == [("item_id", None)]
