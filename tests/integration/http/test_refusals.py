"""Whatever is sent, the answer is a problem document that names what was wrong. Never a 5xx."""

from collections.abc import Iterator
from typing import Any

import pytest
from httpx import Response

from tests.integration.http.conftest import ITEMS, Stack

JSON = {"content-type": "application/json"}
LIST = "/v1/users/u/recommendations"
HUGE = "1" + "0" * 30
SURROGATE = '"\\ud800"'
HUGE_ATTRIBUTE = f'{{"title":"t","attributes":{{"a":{HUGE}}}}}'
TOO_LONG = "u" * 201
BEYOND = '"9999-12-31T23:59:59.9999Z"'

# (url, body, field that is named)
POSTS: list[tuple[str, str, str]] = [
    ("/v1/events", "", "body"),
    ("/v1/events", "{", "body"),
    ("/v1/events", "[]", "body"),
    ("/v1/events", '"x"', "body"),
    ("/v1/events", "[" * 100_000, "body"),
    ("/v1/events", '{"user_id":"u","item_id":"i1"}', "kind"),
    ("/v1/events", '{"user_id":"u","item_id":"i1","kind":"dance"}', "kind"),
    ("/v1/events", '{"user_id":"u","item_id":"i1","kind":["click"]}', "kind"),
    ("/v1/events", '{"user_id":"u","kind":"click"}', "item_id"),
    ("/v1/events", '{"user_id":"u","kind":"search"}', "text"),
    ("/v1/events", '{"user_id":"u","kind":"search","text":"a\\u0000"}', "text"),
    ("/v1/events", '{"user_id":"u","kind":"search","text":' + SURROGATE + "}", "text"),
    ("/v1/events", '{"user_id":' + SURROGATE + ',"kind":"click","item_id":"i1"}', "user_id"),
    ("/v1/events", '{"user_id":"u\\n","kind":"click","item_id":"i1"}', "user_id"),
    ("/v1/events", '{"events":null}', "events"),
    ("/v1/events", '{"events":[{"user_id":"u","kind":"dance"}]}', "events[0].kind"),
    (
        "/v1/events",
        '{"user_id":"u","kind":"click","item_id":"i1","occurred_at":' + BEYOND + "}",
        "occurred_at",
    ),
    (
        "/v1/events",
        '{"user_id":"u","kind":"click","item_id":"i1","occurred_at":"2026-01-01T00:00:00"}',
        "occurred_at",
    ),
    *(
        ("/v1/events", f'{{"user_id":"u","kind":"rating","item_id":"i1","value":{value}}}', "value")
        for value in ("NaN", "Infinity", "-Infinity", "1e999", HUGE, '"x"', "null", "-1", "5.1")
    ),
    ("/v1/recommendations", '{"users":["u"],"k":1000000000}', "k"),
    ("/v1/recommendations", f'{{"users":["u"],"k":{HUGE}}}', "k"),
    ("/v1/recommendations", f'{{"users":["u","{TOO_LONG}"]}}', "users[1]"),
    ("/v1/recommendations", '{"users":["u"],"as_of":' + BEYOND + "}", "as_of"),
    ("/v1/recommendations", '{"users":["u"],"attributes":{"\\ud800":1}}', "attributes"),
    ("/v1/recommendations", '{"users":["u"],"category":' + SURROGATE + "}", "category"),
    ("/v1/search", '{"text":""}', "text"),
    ("/v1/search", '{"text":' + SURROGATE + "}", "text"),
    ("/v1/search", '{"text":"a","k":0}', "k"),
]

PUTS: list[tuple[str, str]] = [
    ("{}", "title"),
    ('{"title":""}', "title"),
    ('{"title":"a\\u0000"}', "title"),
    ('{"title":' + SURROGATE + "}", "title"),
    ('{"title":"t","text":"\\u0000"}', "text"),
    ('{"title":"t","category":"\\u0000"}', "category"),
    ('{"title":"t","version":-1}', "version"),
    ('{"title":"t","version":9223372036854775807}', "version"),
    (f'{{"title":"t","version":{HUGE}}}', "version"),
    ('{"title":"t","attributes":{"a":NaN}}', "attributes"),
    ('{"title":"t","attributes":{"a":Infinity}}', "attributes"),
    ('{"title":"t","attributes":{"a":"\\u0000"}}', "attributes"),
    ('{"title":"t","attributes":{"\\ud800":1}}', "attributes"),
    ('{"title":"t","attributes":{"a":{"b":1}}}', "attributes"),
    ('{"title":"t","published_at":' + BEYOND + "}", "published_at"),
    ('{"title":"t","published_at":"0001-01-01T00:00:00+14:00"}', "published_at"),
]

GETS: list[tuple[str, int, str]] = [
    *(
        (f"{LIST}?{query}", 422, query.partition("=")[0])
        for query in (
            "k=1000000000",
            "k=0",
            "k=x",
            "k=1.5",
            "k=" + "9" * 40,
            "offset=-1",
            "offset=9501",
            "exclude=%00",
            "category=" + "c" * 201,
            "attribute=x",
            "attribute=:1",
            "&".join(["attribute=n:1"] * 11),
            "as_of=x",
            "as_of=9999-12-31T23:59:59.9999Z",
            "as_of=0001-01-01T00:00:00%2B14:00",
            "exclude_seen=maybe",
        )
    ),
    ("/v1/users/%00/recommendations", 422, "user_id"),
    ("/v1/users/nobody", 404, "user_id"),
    ("/v1/users/u/events?after=-1", 422, "after"),
    ("/v1/users/u/events?after=x", 422, "after"),
    ("/v1/users/u/events?after=" + "9" * 30, 422, "after"),
    ("/v1/users/u/events?limit=1000000000", 422, "limit"),
    ("/v1/items/none", 404, "item_id"),
    ("/v1/items/none/similar", 404, "item_id"),
    ("/v1/items/i1/similar?k=0", 422, "k"),
]


def assert_refused(answer: Response, field: str, status: int = 422) -> None:
    __tracebackhide__ = True
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["moonlark-request-id"]
    problem = answer.json()
    assert {"type", "title", "status", "detail", "errors"} <= problem.keys()
    assert problem["status"] == status
    named = [error["field"] for error in problem["errors"]]
    assert any(name.startswith(field) for name in named), named
    for error in problem["errors"]:
        assert error["accepted"]
        assert "value" in error


def test_a_bad_body_is_refused_by_field_and_nothing_is_stored(stack: Stack) -> None:
    before = stack.replicas[0].get("/v1/status").json()
    for url, body, field in POSTS:
        answer = stack.replicas[0].post(url, content=body, headers=JSON)
        assert_refused(answer, field)
    for body, field in PUTS:
        assert_refused(stack.replicas[0].put("/v1/items/x", content=body, headers=JSON), field)
        many = '{"items":[{"item_id":"w","title":"w"},{"item_id":"x"' + "," * (body != "{}")
        answer = stack.replicas[0].put("/v1/items", content=many + body[1:] + "]}", headers=JSON)
        assert_refused(answer, f"items[1].{field}")
    after = stack.replicas[0].get("/v1/status").json()
    assert (after["events"], after["users"]) == (before["events"], before["users"]) == (0, 0)
    assert after["catalog_seq"] == before["catalog_seq"]


def test_a_bad_query_is_refused_by_field(stack: Stack) -> None:
    for url, status, field in GETS:
        assert_refused(stack.replicas[0].get(url), field, status)
    versions = stack.replicas[0].delete("/v1/items/i1?version=" + "9" * 30)
    assert_refused(versions, "version")
    assert_refused(stack.replicas[0].delete("/v1/items/none"), "item_id", 404)


def test_odd_values_that_are_allowed_do_no_harm(stack: Stack) -> None:
    client = stack.replicas[0]
    odd: list[Any] = [
        client.put("/v1/items/x", content=HUGE_ATTRIBUTE, headers=JSON),
        client.put("/v1/items/y", json={"title": "<b></b>", "category": ""}),
        client.post("/v1/events", json={"user_id": "u", "kind": "search", "text": "<b></b>"}),
        client.post("/v1/search", json={"text": "   ", "user_id": "u"}),
        client.get(f"{LIST}?attribute=n:{'9' * 400}"),
        client.get(f"{LIST}?attribute=n:{'9' * 5000}"),
        client.get(f"{LIST}?attribute=n:NaN&category=%ff"),
        client.get(f"{LIST}?as_of=0002-01-01T00:00:00%2B14:00"),
        client.get(f"{LIST}?k=500&offset=9500"),
        client.get(f"{LIST}?k=1&offset=9500"),
        client.get("/v1/items/x"),
        client.get("/v1/items/y/similar"),
    ]
    assert [answer.status_code for answer in odd] == [200] * len(odd), [a.text for a in odd]
    listed = stack.replicas[1].get(LIST, params={"k": 100}).json()
    assert {"x", "y"} <= {item["item_id"] for item in listed["items"]}


def test_a_body_beyond_the_limit_is_413_whether_it_says_its_length_or_not(stack: Stack) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    told = stack.replicas[0].post("/v1/events", content=b"x" * 10_000_000, headers=JSON)
    untold = stack.replicas[0].post("/v1/events", content=chunks(), headers=JSON)
    for answer in (told, untold):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert "2000000 bytes" in answer.json()["detail"]


def test_routes_that_are_not_there_are_problems_too(stack: Stack) -> None:
    for method, url, status in (("GET", "/nowhere", 404), ("PATCH", "/v1/items/i1", 405)):
        answer = stack.replicas[0].request(method, url)
        assert answer.status_code == status
        assert answer.json()["hint"] == "see /docs for the routes"


def test_a_batch_is_stored_whole_or_not_at_all(stack: Stack) -> None:
    good = [
        {"user_id": "u", "kind": "click", "item_id": f"i{n}", "event_id": f"e{n}"} for n in range(3)
    ]
    bad = {"user_id": "u", "kind": "click", "item_id": "none", "event_id": "bad"}
    answer = stack.replicas[0].post("/v1/events", json={"events": [*good, bad]})
    assert_refused(answer, "events[3].item_id")
    assert stack.replicas[1].get("/v1/users/u").status_code == 404
    for number, replica in enumerate((0, 1)):
        stored = stack.replicas[replica].post("/v1/events", json={"events": good})
        events = stored.json()["events"]
        assert [event["user_seq"] for event in events] == [1, 2, 3]
        assert {event["duplicate"] for event in events} == {bool(number)}


def test_unknown_items_are_kept_on_request_and_count_as_events_of_no_known_item(
    stack: Stack,
) -> None:
    known = {"user_id": "u", "kind": "click", "item_id": "i1", "event_id": "a"}
    unknown = {"user_id": "u", "kind": "click", "item_id": "none", "event_id": "b"}
    assert stack.replicas[0].post("/v1/events", json=known).status_code == 200
    before = stack.replicas[1].get(LIST, params={"k": ITEMS}).json()
    assert_refused(stack.replicas[0].post("/v1/events", json=unknown), "item_id")
    kept = stack.replicas[0].post("/v1/events?on_unknown_item=keep", json={"events": [unknown]})
    assert kept.json()["events"][0]["user_seq"] == 2
    after = stack.replicas[1].get(LIST, params={"k": ITEMS}).json()
    assert (after["user_seq"], after["degraded"]) == (2, [])
    assert {i["item_id"] for i in after["items"]} == {i["item_id"] for i in before["items"]}
    assert after["items"] != before["items"]  # the learned unknown vector was fed
    events = stack.replicas[1].get("/v1/users/u/events").json()["events"]
    assert events[1]["item_id"] == "none"
    again = stack.replicas[1].post("/v1/events?on_unknown_item=keep", json=unknown).json()
    assert again["events"][0] == kept.json()["events"][0] | {"duplicate": True}
    odd = stack.replicas[0].post("/v1/events?on_unknown_item=maybe", json=unknown)
    assert_refused(odd, "on_unknown_item")
    undo = {"user_id": "u", "kind": "undo", "undoes": "b"}
    assert stack.replicas[1].post("/v1/events", json=undo).status_code == 200
    assert stack.replicas[0].get(LIST, params={"k": ITEMS}).json()["items"] == before["items"]


def test_comments_count_with_and_without_an_item(stack: Stack) -> None:
    def comment(user: str, replica: int, **fields: str) -> Response:
        body = {"user_id": user, "kind": "comment", "text": "space battle", **fields}
        return stack.replicas[replica].post("/v1/events", json=body)

    assert comment("with", 0, item_id="i1").status_code == 200
    assert comment("without", 0).status_code == 200
    assert_refused(comment("with", 0, item_id="none"), "item_id")
    lists = {
        user: stack.replicas[1].get(f"/v1/users/{user}/recommendations?k={ITEMS}").json()
        for user in ("with", "without")
    }
    for answer in lists.values():
        assert (answer["basis"], answer["user_seq"], answer["degraded"]) == ("session", 1, [])
        assert "i1" in {item["item_id"] for item in answer["items"]}  # a comment is no sight
    # The text is the input; the weights of this test have no residual for the item.
    assert lists["with"]["items"] == lists["without"]["items"]
    stored = stack.replicas[1].get("/v1/users/with/events").json()["events"][0]
    assert (stored["item_id"], stored["text"]) == ("i1", "space battle")
    assert "item_id" not in stack.replicas[1].get("/v1/users/without/events").json()["events"][0]
    assert comment("with", 1, text="garden rose").json()["events"][0]["user_seq"] == 2
    moved = stack.replicas[0].get(f"/v1/users/with/recommendations?k={ITEMS}").json()
    assert moved["items"] != lists["with"]["items"]


@pytest.mark.parametrize("name", ["year", "search", "batch", "value", "attributes"])
def test_an_attribute_that_is_refused_is_named_once_as_the_client_called_it(
    stack: Stack, name: str
) -> None:
    body = {"title": "t", "attributes": {name: {"b": 1}}}
    answer = stack.replicas[0].put("/v1/items/new", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [f"attributes.{name}"]
    many = stack.replicas[0].put("/v1/items", json={"items": [{"item_id": "new", **body}]})
    assert [error["field"] for error in many.json()["errors"]] == [f"items[0].attributes.{name}"]
