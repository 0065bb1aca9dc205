"""The usual post of events, which goes past FastAPI, is answered as the route itself would."""

from typing import Any

import pytest

from serve.problems import REQUEST_ID
from serve.routes import events, quick_events
from tests.integration.http.conftest import Stack

ROUTE = "/v1/events?on_unknown_item=refuse"
"""Says what is so without a query: the short way has none."""


def click(user: str, event_id: str, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "kind": "click", "item_id": "i3", "event_id": event_id, **more}


BODIES: dict[str, Any] = {
    "one": lambda user: click(user, "a", occurred_at="2026-01-02T03:04:05Z"),
    "some": lambda user: {
        "events": [
            click(user, "a"),
            {"user_id": user, "kind": "rating", "item_id": "i4", "value": 4.5, "event_id": "b"},
            {"user_id": user, "kind": "search", "text": "a garden", "event_id": "c"},
            {"user_id": user, "kind": "undo", "undoes": "a", "event_id": "d"},
            click(user, "a"),
        ]
    },
}
REFUSED: dict[str, Any] = {
    "no kind": {"user_id": "u", "item_id": "i3"},
    "no item": click("u", "x", item_id="nobody-has-it"),
    "a field too many": click("u", "x", colour="red"),
    "none": {"events": []},
    "a list": [click("u", "x")],
    "a rating too high": {"user_id": "u", "kind": "rating", "item_id": "i3", "value": 1e9},
}


@pytest.mark.parametrize("name", BODIES)
def test_the_short_way_and_the_route_store_and_answer_the_same(stack: Stack, name: str) -> None:
    client = stack.replicas[0]
    quick = client.post("/v1/events", json=BODIES[name](f"quick-{name}"))
    whole = client.post(ROUTE, json=BODIES[name](f"whole-{name}"))
    assert quick.status_code == whole.status_code == 200
    assert _told(quick.json(), f"quick-{name}") == _told(whole.json(), f"whole-{name}")
    assert quick.headers["content-type"] == whole.headers["content-type"]
    assert quick.json()["request_id"] == quick.headers[REQUEST_ID]


def _told(answer: dict[str, Any], user: str) -> dict[str, Any]:
    """But for the request, the user's name and the moment."""
    rows = [
        {key: value for key, value in row.items() if not key.endswith("_at")}
        | ({"user_id": "-"} if row.get("user_id") == user else {})
        for row in answer["events"]
    ]
    return {**answer, "events": rows, "request_id": "-"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_route_refuses_is_refused_in_its_words(stack: Stack, name: str) -> None:
    client = stack.replicas[0]
    quick = client.post("/v1/events", json=REFUSED[name])
    whole = client.post(ROUTE, json=REFUSED[name])
    assert quick.status_code == whole.status_code >= 400
    assert {**quick.json(), "request_id": "-"} == {**whole.json(), "request_id": "-"}


def test_the_usual_post_does_go_the_short_way(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[str] = []
    for module in (quick_events, events):
        real = module.stored

        async def noted(*args: Any, of: str = module.__name__, to: Any = real, **more: Any) -> Any:
            by.append(of)
            return await to(*args, **more)

        monkeypatch.setattr(module, "stored", noted)
    client = stack.replicas[0]
    for path in ("/v1/events", ROUTE):
        assert client.post(path, json=click("short", path[-3:])).status_code == 200
    assert by == [quick_events.__name__, events.__name__]
