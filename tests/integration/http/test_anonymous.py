"""Events that come with the request: the list of a user who did just that, and nothing is kept."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from serve.anonymous import NOBODY, InlineLog, inline_log
from serve.day import Day
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent
from sql.tables import metadata
from tests.integration.http.conftest import ITEMS, WORDS, Stack

AS_OF = "2026-11-24T00:00:00Z"
KINDS = ("view", "click", "favourite", "purchase", "rating", "dislike", "hide", "search", "comment")
URL = "/v1/recommendations"


def day_of(stack: Stack, replica: int) -> Day:
    day: Day = stack.replicas[replica].app.state.day  # type: ignore[attr-defined]
    return day


def rows(stack: Stack) -> dict[str, int]:
    """How many rows each table has, once what waits is written; leases come by themselves."""
    for replica in (0, 1):
        day_of(stack, replica).write_behind.flush()
    with read_snapshot(stack.engine) as conn:
        return {
            table.name: conn.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
            if table.name != "replicas"
        }


def anonymous(stack: Stack, replica: int, events: list[Any], query: str = "", **body: Any) -> Any:
    answer = stack.replicas[replica].post(
        URL + query, json={"events": events, "k": ITEMS, "as_of": AS_OF, **body}
    )
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["user_id"] is None
    assert result["request_id"] == answer.json()["request_id"]
    return result


def history(rng: np.random.Generator, length: int) -> list[dict[str, Any]]:
    """Events of all kinds, with undo, re-rating and a retry within the list."""
    events: list[dict[str, Any]] = []
    undoable: list[str] = []
    for number in range(length):
        kind = str(rng.choice([*KINDS, "rating", "rating", "undo", "undo", "retry"]))
        event: dict[str, Any] = {"kind": kind, "event_id": f"e{number}"}
        if kind == "retry":
            if events:
                events.append(events[rng.integers(len(events))])
            continue
        if kind == "undo":
            if not undoable:
                continue
            event["undoes"] = undoable.pop(int(rng.integers(len(undoable))))
        else:
            undoable.append(event["event_id"])
        if kind in ("search", "comment"):
            event["text"] = f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
        if kind not in ("search", "undo") and not (kind == "comment" and number % 2):
            event["item_id"] = f"i{rng.integers(6 if kind == 'rating' else ITEMS)}"
        if kind == "rating":
            event["value"] = float(rng.integers(0, 6))
        events.append(event)
    return events


@pytest.mark.parametrize("seed", range(6))
def test_the_answer_is_that_of_a_stored_user_with_the_same_events(stack: Stack, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert stack.replicas[0].delete(f"/v1/items/i{ITEMS - 1}").status_code == 200
    put = stack.replicas[0].put("/v1/items/i3", json={"title": "soup garden"})  # from the delta
    assert put.status_code == 200, put.text
    for number, length in enumerate((1, 5, 30)):
        events = [e for e in history(rng, length) if e.get("item_id") != f"i{ITEMS - 1}"]
        gone = {e["event_id"] for e in events}
        events = [e for e in events if e.get("undoes", e["event_id"]) in gone]
        if not events:
            continue
        user = f"u{number}"
        stored = stack.replicas[0].post(
            "/v1/events", json={"events": [{**event, "user_id": user} for event in events]}
        )
        assert stored.status_code == 200, stored.text
        before = rows(stack)
        ours = [anonymous(stack, replica, events) for replica in (0, 1)]
        narrow = anonymous(
            stack, 0, events, category="pasta", exclude=["i1"], exclude_seen=False, offset=1, k=4
        )
        assert rows(stack) == before
        url = f"/v1/users/{user}/recommendations"
        theirs = stack.replicas[1].get(url, params={"k": ITEMS, "as_of": AS_OF}).json()
        params = {"category": "pasta", "exclude": "i1", "exclude_seen": False, "offset": 1, "k": 4}
        narrowed = stack.replicas[1].get(url, params={**params, "as_of": AS_OF}).json()
        same = ("items", "basis", "generation", "user_seq", "catalog_seq", "as_of", "degraded")
        for answer, expected in ((ours[0], theirs), (ours[1], theirs), (narrow, narrowed)):
            assert {name: answer[name] for name in same} == {n: expected[n] for n in same}
        vector = day_of(stack, 0).states.read(user).vector
        imagined = day_of(stack, 1).states.of_events(*folded(stack, events)).vector
        np.testing.assert_array_equal(vector, imagined)


def folded(stack: Stack, events: list[dict[str, Any]]) -> tuple[Any, Any]:
    """The log and vectors of `events`, as the route makes them."""
    from tests.integration.http.conftest import ENCODER_ID, words_vector

    new = [
        NewEvent(
            NOBODY,
            event["event_id"],
            EventKind(event["kind"]),
            item_id=event.get("item_id"),
            text=event.get("text"),
            value=event.get("value"),
            undoes=event.get("undoes"),
            vectors={ENCODER_ID: words_vector(event["text"])} if "text" in event else {},
        )
        for event in events
    ]
    log = inline_log(stack.engine, new, received_at_ms=1, keep_unknown_items=False)
    assert isinstance(log, InlineLog)
    return log.events, log.text_vectors


def test_what_is_taken_back_leaves_nothing_and_a_rating_replaces_the_one_before(
    stack: Stack,
) -> None:
    click = {"kind": "click", "item_id": "i1", "event_id": "a"}
    undone = anonymous(stack, 0, [click, {"kind": "undo", "undoes": "a"}])
    assert (undone["basis"], undone["user_seq"]) == ("popularity", 2)
    assert "i1" in [item["item_id"] for item in undone["items"]]
    rated = {"kind": "rating", "item_id": "i2", "value": 1.0}
    twice = anonymous(stack, 0, [rated, rated | {"value": 5.0}])
    assert twice["user_seq"] == 2
    assert twice["items"] == anonymous(stack, 1, [rated | {"value": 5.0}])["items"]
    viewed = {"kind": "view", "item_id": "i2"}  # twice is twice, where it is no rating
    assert anonymous(stack, 0, [viewed, viewed])["items"] != anonymous(stack, 0, [viewed])["items"]
    # Two requests share no log: the event id of one is free in the next.
    other = anonymous(stack, 0, [click | {"item_id": "i5"}])
    assert (other["user_seq"], other["basis"]) == (1, "session")


def test_an_event_is_refused_as_the_log_would_refuse_it(stack: Stack) -> None:
    good = {"kind": "click", "item_id": "i1", "event_id": "a"}
    for events, status, field in (
        ([good, {"kind": "click", "item_id": "none"}], 422, "events[1].item_id"),
        ([good, {"kind": "undo", "undoes": "none"}], 409, "events[1].undoes"),
        ([good, good | {"item_id": "i2"}], 409, "events[1].event_id"),
        ([good, {"kind": "dance"}], 422, "events[1].kind"),
        ([good, {"kind": "search"}], 422, "events[1].text"),
        ([good | {"user_id": "u"}], 422, "events[0].user_id"),
        ([good | {"value": 3}], 422, "events[0].value"),
        ([], 422, "events"),
        ([good] * 201, 422, "events"),
    ):
        answer = stack.replicas[0].post(URL, json={"events": events})
        assert answer.status_code == status, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    for body, field in (
        ({"events": [good], "users": ["u"]}, "events"),
        ({}, "users"),
        ({"events": [good], "k": 0}, "k"),
        ({"events": [good], "colour": "red"}, "colour"),
    ):
        answer = stack.replicas[0].post(URL, json=body)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_unknown_items_are_kept_on_request_as_in_the_log(stack: Stack) -> None:
    events = [{"kind": "click", "item_id": item} for item in ("i1", "none")]
    ours = anonymous(stack, 0, events, "?on_unknown_item=keep")
    body = {"events": [{**event, "user_id": "u"} for event in events]}
    stored = stack.replicas[1].post("/v1/events?on_unknown_item=keep", json=body)
    assert stored.status_code == 200, stored.text
    url = "/v1/users/u/recommendations"
    theirs = stack.replicas[1].get(url, params={"k": ITEMS, "as_of": AS_OF}).json()
    assert ours["items"] == theirs["items"]
    assert ours["items"] != anonymous(stack, 0, events[:1])["items"]


def test_without_bert_the_texts_are_marked_and_the_rest_counts(stack: Stack) -> None:
    events = [{"kind": "search", "text": "space battle"}, {"kind": "click", "item_id": "i1"}]
    whole = anonymous(stack, 0, events)
    assert whole["degraded"] == []
    stack.bert_is_there = False
    for replica in (0, 1):
        marked = anonymous(stack, replica, events)
        assert marked["degraded"] == ["text_not_embedded"]
        assert (marked["user_seq"], marked["basis"]) == (2, "session")
        assert marked["items"] != whole["items"]
        assert "i1" not in [item["item_id"] for item in marked["items"]]
    assert anonymous(stack, 0, events[1:])["degraded"] == []
