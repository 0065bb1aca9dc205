"""What trends, within a second of the events, over two replicas."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.http.conftest import ITEMS, WORDS, Stack


def post(stack: Stack, user: str, kind: str, item_id: str, **event: Any) -> None:
    body = {"user_id": user, "kind": kind, "item_id": item_id, **event}
    assert stack.replicas[0].post("/v1/events", json=body).status_code == 200


def trending(stack: Stack, replica: int, **params: Any) -> dict[str, Any]:
    answer = stack.replicas[replica].get("/v1/trending", params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert 0 <= body["activity_age_ms"] < 1_100
    return body


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def soon(is_so: Callable[[], bool]) -> None:
    """Not timed to the millisecond: a machine may be busy. It must come about, and by itself."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_acted_on_trends_on_both_replicas_and_an_undo_takes_it_off(stack: Stack) -> None:
    assert ids(trending(stack, 0)) == ids(trending(stack, 1)) == []
    post(stack, "a", "purchase", "i5")
    post(stack, "a", "click", "i6", event_id="c")
    post(stack, "b", "view", "i9")
    post(stack, "b", "hide", "i10")
    for replica in (0, 1):
        soon(lambda replica=replica: ids(trending(stack, replica)) == ["i5", "i6", "i9"])  # type: ignore[misc]
    assert ids(trending(stack, 1, category=WORDS[1])) == ["i5", "i9"]
    assert ids(trending(stack, 1, attribute="n:1")) == ["i6"]
    assert ids(trending(stack, 1, k=1, hours=168)) == ["i5"]
    undo = {"user_id": "a", "kind": "undo", "undoes": "c"}
    assert stack.replicas[1].post("/v1/events", json=undo).status_code == 200
    soon(lambda: ids(trending(stack, 0)) == ["i5", "i9"])
    assert stack.replicas[1].delete("/v1/items/i5").status_code == 200
    assert ids(trending(stack, 0)) == ["i9"]
    assert ids(trending(stack, 0, as_of="2020-01-01T00:00:00Z")) == []


@pytest.mark.parametrize("replica", [0, 1])
def test_the_list_of_a_new_user_follows_what_trends(stack: Stack, replica: int) -> None:
    def listed(**params: Any) -> list[str]:
        url = "/v1/users/new/recommendations"
        answer = stack.replicas[replica].get(url, params={"k": ITEMS, **params}).json()
        assert answer["basis"] == "popularity"
        return ids(answer)

    assert len(listed()) == ITEMS
    post(stack, "fan", "favourite", "i30")
    soon(lambda: listed()[0] == "i30")
    assert listed(category=WORDS[2])[0] == "i30"
    assert "i30" not in listed(category=WORDS[1])
    assert "i30" not in listed(exclude="i30")


@pytest.mark.parametrize(
    ("params", "field"), [({"hours": 0}, "hours"), ({"hours": 169}, "hours"), ({"k": 0}, "k")]
)
def test_bounds_are_told(stack: Stack, params: dict[str, int], field: str) -> None:
    refused = stack.replicas[0].get("/v1/trending", params=params)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field
