"""`GET /v1/users/{id}` says in words what the user vector says in numbers."""

from collections import Counter
from typing import Any

from ray_jobs.ranking.interests import NEAREST, TermShares, interests_of
from tests.integration.http.conftest import ITEMS, WORDS, Stack

USER = "/v1/users/u"


def post(stack: Stack, **event: Any) -> None:
    answer = stack.replicas[0].post("/v1/events", json={"user_id": "u", **event})
    assert answer.status_code == 200, answer.text


def test_interests_are_those_of_the_nearest_items_and_follow_the_next_event(stack: Stack) -> None:
    post(stack, kind="search", text="space battle", event_id="s")
    post(stack, kind="click", item_id="i3", event_id="c")
    post(stack, kind="hide", item_id="i5", event_id="h")
    for replica in stack.replicas:
        told = replica.get(USER).json()["interests"]
        # A generation without fusion lists by the user vector alone; so this is what is nearest.
        asked = {"k": NEAREST, "exclude_seen": False}
        near = replica.get(f"{USER}/recommendations", params=asked).json()["items"]
        assert "i5" not in {item["item_id"] for item in near}
        titles = [item["title"] for item in near]
        catalog = [
            f"{WORDS[n % 8]} {WORDS[(n * 3 + 1) % 8]} {n}" for n in range(ITEMS)
        ]  # as the fixture puts them
        right = interests_of(titles, [i["category"] for i in near], TermShares.of(catalog))
        assert [(t["term"], t["weight"]) for t in told["terms"]] == [
            (term, round(weight, 4)) for term, weight in right.terms
        ]
        shares = Counter(item["category"] for item in near)
        assert {c["category"]: c["share"] for c in told["categories"]} == {
            name: round(count / len(near), 4) for name, count in shares.items()
        }
    post(stack, kind="undo", undoes="c")
    post(stack, kind="undo", undoes="s")
    post(stack, kind="undo", undoes="h")
    assert stack.replicas[1].get(USER).json()["interests"] is None
