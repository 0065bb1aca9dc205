"""An id that is deleted and put again is a new item to the model and the same one to its users:
what they saw and bought of it counts by the rule of its present category."""

from typing import Any

from tests.integration.http.conftest import Stack

SPACE = {"title": "space battle", "category": "space"}


def post(stack: Stack, **event: Any) -> None:
    answer = stack.replicas[0].post("/v1/events", json={"user_id": "u", **event})
    assert answer.status_code == 200, answer.text


def rule(stack: Stack, policy_id: str, **body: Any) -> None:
    put = {"kind": "seen", **body}
    assert stack.replicas[0].put(f"/v1/policies/{policy_id}", json=put).status_code == 200


def put(stack: Stack, item_id: str) -> None:
    assert stack.replicas[0].put(f"/v1/items/{item_id}", json=SPACE).status_code == 200


def new_life(stack: Stack, item_id: str) -> None:
    assert stack.replicas[0].delete(f"/v1/items/{item_id}").status_code == 200
    put(stack, item_id)


def listed(stack: Stack) -> set[str]:
    """By the other replica."""
    answer = stack.replicas[1].get("/v1/users/u/recommendations", params={"k": 200})
    assert answer.status_code == 200, answer.text
    return {item["item_id"] for item in answer.json()["items"]}


def test_what_its_category_calls_seen_stays_away_also_after_a_night(stack: Stack) -> None:
    rule(stack, "default", kinds=[])
    rule(stack, "space", category="space", kinds=["view"])
    put(stack, "new")
    post(stack, kind="click", item_id="i1")
    for item_id in ("i4", "new"):  # of the night, of the day
        post(stack, kind="view", item_id=item_id)
    assert not {"i4", "new"} & listed(stack)
    for item_id in ("i4", "new"):
        new_life(stack, item_id)
    assert not {"i4", "new"} & listed(stack)
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    assert not {"i4", "new"} & listed(stack)


def test_what_may_be_bought_again_may_be_so_in_its_new_life_whatever_else_was_seen_of_it(
    stack: Stack,
) -> None:
    rule(stack, "space", category="space", buy_again_after_days=0)
    put(stack, "milk")
    post(stack, kind="purchase", item_id="milk")
    post(stack, kind="view", item_id="milk")
    assert "milk" in listed(stack)
    new_life(stack, "milk")
    assert "milk" in listed(stack)
    post(stack, kind="view", item_id="milk")
    assert "milk" in listed(stack)
