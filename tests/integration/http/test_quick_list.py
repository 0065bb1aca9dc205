"""The usual request of a list, which goes past FastAPI, is answered as the route itself would."""

from typing import Any

import pytest

from serve.problems import REQUEST_ID
from serve.routes import quick_list
from tests.integration.http.conftest import Stack

OF_ONE_ANSWER = {"request_id", "as_of"}


def same(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in OF_ONE_ANSWER}


@pytest.mark.parametrize("query", ["", "k=1", "k=7", "k=100"])
def test_the_short_way_and_the_route_give_the_same_list(stack: Stack, query: str) -> None:
    client = stack.replicas[0]
    event = {"user_id": "reader.1", "kind": "click", "item_id": "i3"}
    assert client.post("/v1/events", json=event).status_code == 200
    path = "/v1/users/reader.1/recommendations"
    quick = client.get(f"{path}?{query}" if query else path)
    # `offset` is no part of the short way, and 0 is what it is without.
    whole = client.get(f"{path}?{query}&offset=0" if query else f"{path}?offset=0")
    assert same(quick.json()) == same(whole.json())
    assert quick.status_code == whole.status_code == 200
    assert quick.headers["content-type"] == whole.headers["content-type"]
    assert quick.json()["request_id"] == quick.headers[REQUEST_ID]


@pytest.mark.parametrize(
    "query", ["k=0", "k=-1", "k=1001", "k=9999", "k=x", "k=5&k=6", "z=1", "k="]
)
def test_what_the_route_refuses_is_refused(stack: Stack, query: str) -> None:
    client = stack.replicas[0]
    answer = client.get(f"/v1/users/reader.1/recommendations?{query}")
    whole = client.get(f"/v1/users/reader.1/recommendations?{query}&offset=0")
    assert answer.status_code == whole.status_code
    assert answer.json().get("errors") == whole.json().get("errors")


def test_the_usual_request_does_go_the_short_way(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = quick_list.list_of

    async def noted(day: Any, key: Any, user_id: str, *more: Any) -> dict[str, Any]:
        asked.append(user_id)
        return await real(day, key, user_id, *more)

    monkeypatch.setattr(quick_list, "list_of", noted)
    client = stack.replicas[0]
    for user_id in ("reader-2", "a%2Fb", "reader-2?k=5&offset=0"):
        name, _, query = user_id.partition("?")
        path = f"/v1/users/{name}/recommendations" + (f"?{query}" if query else "")
        assert client.get(path).status_code == 200
    assert asked == ["reader-2"]
