"""Pins, boosts and what counts as seen, over two replicas: in force at acknowledgement."""

from typing import Any

import pytest

from tests.integration.http.conftest import ITEMS, WORDS, Stack

AS_OF = "2026-11-24T00:00:00Z"
LATE = "2099-01-01T00:00:00Z"


def put(stack: Stack, replica: int, policy_id: str, status: int = 200, **body: Any) -> Any:
    answer = stack.replicas[replica].put(f"/v1/policies/{policy_id}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def post(stack: Stack, replica: int, kind: str, item_id: str, **event: Any) -> None:
    body = {"user_id": "u", "kind": kind, "item_id": item_id, **event}
    assert stack.replicas[replica].post("/v1/events", json=body).status_code == 200


def undo(stack: Stack, replica: int, event_id: str) -> None:
    body = {"user_id": "u", "kind": "undo", "undoes": event_id}
    assert stack.replicas[replica].post("/v1/events", json=body).status_code == 200


def answered(stack: Stack, replica: int, user: str = "u", **params: Any) -> dict[str, Any]:
    url = f"/v1/users/{user}/recommendations"
    answer = stack.replicas[replica].get(url, params={"k": ITEMS, "as_of": AS_OF, **params})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def listed(stack: Stack, replica: int, user: str = "u", **params: Any) -> list[str]:
    return [item["item_id"] for item in answered(stack, replica, user, **params)["items"]]


@pytest.mark.parametrize("user", ["u", "new"])
def test_a_pin_and_its_end_are_in_the_next_answer_of_the_other_replica(
    stack: Stack, user: str
) -> None:
    post(stack, 0, "click", "i0")
    plain = listed(stack, 1, user)
    last = plain[-1]
    made = put(stack, 0, "p", kind="pin", item_id=last, position=3)
    assert made == {"policy_id": "p", "outcome": "created", "policy_seq": 1}
    answer = answered(stack, 1, user)
    assert answer["policy_seq"] == 1
    expected = [*plain[:2], last, *plain[2:-1]]
    assert [item["item_id"] for item in answer["items"]] == expected
    pages = [listed(stack, 1, user, k=2, offset=offset) for offset in range(0, len(plain), 2)]
    assert [item for page in pages for item in page] == expected
    moved = put(stack, 1, "p", kind="pin", item_id=last, position=1)
    assert (moved["outcome"], moved["policy_seq"]) == ("updated", 2)
    assert listed(stack, 0, user) == [last, *plain[:-1]]
    gone = stack.replicas[0].delete("/v1/policies/p").json()
    assert gone == {"policy_id": "p", "outcome": "deleted", "policy_seq": 3}
    again = answered(stack, 1, user)
    assert again["policy_seq"] == 3
    assert [item["item_id"] for item in again["items"]] == plain


def test_a_pin_is_in_force_from_its_start_until_before_its_end(stack: Stack) -> None:
    post(stack, 0, "click", "i0")
    last = listed(stack, 0)[-1]
    start, end = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00+00:00"
    put(stack, 0, "p", kind="pin", item_id=last, position=1, starts_at=start, ends_at=end)
    for as_of, shown in (
        ("2029-12-31T23:59:59.999Z", False),
        (start, True),
        ("2030-01-01T23:59:59.999Z", True),
        ("2030-01-02T01:00:00+01:00", False),
    ):
        assert (listed(stack, 1, as_of=as_of)[0] == last) is shown, as_of


def test_a_pin_shows_no_item_that_the_user_may_not_be_shown(stack: Stack) -> None:
    """Deleted, hidden, disliked, seen, excluded, of another category: none comes back by a pin."""
    post(stack, 0, "click", "i0")
    items = ["i4", "i8", "i12", "i16", "i20", "i1", "i24"]
    for number, item_id in enumerate(items):
        put(stack, 0, f"p{number}", kind="pin", item_id=item_id, position=1)
    assert listed(stack, 1)[:7] == items
    assert stack.replicas[0].delete("/v1/items/i4").status_code == 200
    post(stack, 0, "hide", "i8")
    post(stack, 0, "dislike", "i12", event_id="d")
    post(stack, 0, "view", "i16")
    shown = listed(stack, 1, exclude="i20", category=WORDS[0])
    assert not set(shown) & set(items) - {"i24"}
    assert shown[0] == "i24"
    assert "i16" in listed(stack, 1, exclude_seen="false")[:3]
    undo(stack, 0, "d")
    assert listed(stack, 1, exclude="i20", category=WORDS[0])[:2] == ["i12", "i24"]
    withdrawn = {"title": "space", "category": WORDS[0], "available": False}
    assert stack.replicas[1].put("/v1/items/i24", json=withdrawn).status_code == 200
    for params in ({}, {"category": WORDS[0]}):
        assert "i24" not in listed(stack, 0, **params)
    # An id that was put again is what the editor meant.
    put_again = stack.replicas[1].put("/v1/items/i4", json={"title": "space", "category": "space"})
    assert put_again.status_code == 200
    assert [listed(stack, replica)[0] for replica in (0, 1)] == ["i4", "i4"]


def test_a_pin_of_a_category_is_in_lists_of_it_alone(stack: Stack) -> None:
    post(stack, 0, "click", "i0")
    plain, filtered = listed(stack, 0), listed(stack, 0, category=WORDS[1])
    put(stack, 0, "p", kind="pin", item_id=filtered[-1], position=1, category=WORDS[1])
    assert listed(stack, 1) == plain
    assert listed(stack, 1, category=WORDS[1]) == [filtered[-1], *filtered[:-1]]


@pytest.mark.parametrize("user", ["u", "new"])
def test_boosts_of_an_item_a_category_and_an_attribute_add_up(stack: Stack, user: str) -> None:
    post(stack, 0, "click", "i0")
    before = {item["item_id"]: item["score"] for item in answered(stack, 0, user)["items"]}
    put(stack, 0, "a", kind="boost", weight=0.5, category=WORDS[2])
    put(stack, 1, "b", kind="boost", weight=-0.25, attribute={"name": "n", "value": 3})
    put(stack, 0, "c", kind="boost", weight=0.125, item_id="i18")
    put(stack, 0, "d", kind="boost", weight=1, category=WORDS[3], ends_at="2020-01-01T00:00:00Z")

    def boost(item_id: str) -> float:
        number = int(item_id[1:])
        return 0.5 * (number % 4 == 2) - 0.25 * (number % 5 == 3) + 0.125 * (number == 18)

    for replica in (0, 1):
        answer = answered(stack, replica, user)
        assert answer["policy_seq"] == 4
        after = {item["item_id"]: item["score"] for item in answer["items"]}
        expected = {item_id: score + boost(item_id) for item_id, score in before.items()}
        assert after == pytest.approx(expected, abs=1e-5)
        assert list(after.values()) == sorted(after.values(), reverse=True)
    new = stack.replicas[1].put("/v1/items/new", json={"title": "rook", "category": WORDS[2]})
    assert new.status_code == 200
    scores = {i["item_id"]: i["score"] for i in answered(stack, 0, user, k=100)["items"]}
    for policy_id in "abcd":
        assert stack.replicas[1].delete(f"/v1/policies/{policy_id}").status_code == 200
    bare = {i["item_id"]: i["score"] for i in answered(stack, 0, user, k=100)["items"]}
    assert scores["new"] == pytest.approx(bare["new"] + 0.5, abs=1e-5)


def test_what_counts_as_seen_is_a_setting_of_the_category(stack: Stack) -> None:
    for item_id in ("i0", "i1"):  # of WORDS[0] and WORDS[1]
        post(stack, 0, "view", item_id, event_id=f"view-{item_id}")
        assert item_id not in listed(stack, 1)
    put(stack, 0, "s0", kind="seen", category=WORDS[0], kinds=["purchase"])
    shown = listed(stack, 1)
    assert "i0" in shown
    assert "i1" not in shown
    put(stack, 0, "s", kind="seen", kinds=["click"])
    assert {"i0", "i1"} <= set(listed(stack, 1))
    post(stack, 0, "click", "i0")
    post(stack, 0, "click", "i1", event_id="c1")
    shown = listed(stack, 1)
    assert "i0" in shown
    assert "i1" not in shown
    undo(stack, 1, "c1")
    assert "i1" in listed(stack, 0)
    assert "i0" in listed(stack, 0, category=WORDS[0])
    post(stack, 1, "purchase", "i0")
    assert "i0" not in listed(stack, 0)
    # A new item's category, and that of an edited one, count as they are now.
    edited = stack.replicas[0].put("/v1/items/i1", json={"title": "x", "category": "chess"})
    assert edited.status_code == 200
    put(stack, 0, "s1", kind="seen", category="chess", kinds=["view"])
    assert "i1" not in listed(stack, 1)


def test_a_bought_item_may_be_bought_again_after_its_days(stack: Stack) -> None:
    post(stack, 0, "view", "i3")
    post(stack, 0, "purchase", "i3", event_id="p1", occurred_at="2020-01-01T00:00:00Z")
    assert "i3" not in listed(stack, 1, as_of=LATE)
    put(stack, 0, "s", kind="seen", buy_again_after_days=30)
    for as_of, shown in (("2020-01-30T23:59:59Z", False), ("2020-01-31T00:00:00Z", True)):
        assert ("i3" in listed(stack, 1, as_of=as_of)) is shown, as_of
    post(stack, 1, "view", "i3")
    assert "i3" in listed(stack, 0, as_of="2020-02-01T00:00:00Z")
    post(stack, 1, "purchase", "i3", event_id="p2", occurred_at="2020-01-11T00:00:00Z")
    assert "i3" not in listed(stack, 0, as_of="2020-02-01T00:00:00Z")
    assert "i3" in listed(stack, 0, as_of="2020-02-10T00:00:00Z")
    undo(stack, 0, "p2")
    assert "i3" in listed(stack, 1, as_of="2020-02-01T00:00:00Z")
    undo(stack, 0, "p1")  # viewed, not bought: seen for good
    assert "i3" not in listed(stack, 1, as_of=LATE)
    put(stack, 1, "s", kind="seen", buy_again_after_days=0)
    post(stack, 1, "purchase", "i3", occurred_at=LATE)
    assert "i3" in listed(stack, 0)


def test_a_session_that_was_stored_and_read_again_knows_the_same(stack: Stack) -> None:
    for number in range(30):
        post(stack, 0, "view", f"i{number}")
    post(stack, 0, "purchase", "i3", occurred_at="2020-01-01T00:00:00Z")
    put(stack, 0, "s", kind="seen", kinds=["purchase", "click"], buy_again_after_days=1)
    first = listed(stack, 0)
    for replica in stack.replicas:
        replica.app.state.day.write_behind.flush()  # type: ignore[attr-defined]
    assert listed(stack, 1) == first
    assert len(first) == ITEMS
    assert "i3" not in listed(stack, 1, as_of="2020-01-01T12:00:00Z")


def test_policies_are_listed_and_shown_as_they_were_put(stack: Stack) -> None:
    pin = {"kind": "pin", "item_id": "i1", "position": 2, "ends_at": "2030-01-01T00:00:00Z"}
    boost = {"kind": "boost", "weight": 0.5, "attribute": {"name": "n", "value": 3}}
    seen = {"kind": "seen", "category": "news", "kinds": ["click"], "buy_again_after_days": 7}
    for number, body in enumerate((pin, boost, seen)):
        put(stack, 0, f"p{number}", **body)
    assert put(stack, 1, "p0", **pin)["outcome"] == "unchanged"
    answer = stack.replicas[1].get("/v1/policies").json()
    assert answer["policy_seq"] == 3
    for number, (shown, body) in enumerate(
        zip(answer["policies"], (pin, boost, seen), strict=True)
    ):
        assert body.items() <= shown["policy"].items()
        assert (shown["policy_id"], shown["policy_seq"]) == (f"p{number}", number + 1)
        assert stack.replicas[0].get(f"/v1/policies/p{number}").json() == shown
    for absent in (
        stack.replicas[0].get("/v1/policies/none"),
        stack.replicas[0].delete("/v1/policies/none"),
    ):
        assert absent.status_code == 404
        assert absent.json()["errors"][0]["field"] == "policy_id"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "pin", "item_id": "i1", "position": 0}, "position"),
        ({"kind": "pin", "item_id": "i1", "position": 1, "from": "x"}, "from"),
        ({"kind": "pin", "item_id": "i1", "position": 1, "ends_at": "2030-01-01"}, "ends_at"),
        ({"kind": "boost", "weight": 2, "item_id": "i1"}, "weight"),
        ({"kind": "boost", "weight": 1}, "boost"),
        ({"kind": "seen", "kinds": ["hide"]}, "kinds[0]"),
        ({"kind": "push"}, "kind"),
        ({"kind": "boost", "weight": 1, "attribute": {"name": "n"}}, "attribute.value"),
    ],
)
def test_what_is_wrong_with_a_policy_is_named(
    stack: Stack, body: dict[str, Any], field: str
) -> None:
    refused = put(stack, 0, "p", status=422, **body)
    assert field in [error["field"] for error in refused["errors"]], refused
    assert stack.replicas[0].get("/v1/policies").json() == {"policies": [], "policy_seq": 0}
