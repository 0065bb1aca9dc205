"""Promises 5, 8 and 9: a switch is not noticed, and what is missing is said."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql.engine import migrate, open_engine
from sql.settings import StoreSettings
from tests.integration.http.conftest import ENCODER_ID, ITEMS, Stack, words_vector

AS_OF = "2026-11-24T00:00:00Z"
LIST = "/v1/users/u/recommendations"


def click(stack: Stack, replica: int, user: str, item_id: str) -> int:
    body = {"user_id": user, "kind": "click", "item_id": item_id}
    answer = stack.replicas[replica].post("/v1/events", json=body)
    assert answer.status_code == 200, answer.text
    seq: int = answer.json()["events"][0]["user_seq"]
    return seq


def test_switches_and_rollbacks_under_traffic_fail_no_request_and_lose_no_event(
    stack: Stack,
) -> None:
    click(stack, 0, "idle", "i1")
    idle = f"/v1/users/idle/recommendations?k={ITEMS}&as_of={AS_OF}"
    before = stack.replicas[0].get(idle).json()
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    stop, wrong, asked = threading.Event(), [], [0, 0]
    lists: dict[str, Any] = {"g1": before["items"]}

    def traffic(replica: int) -> None:
        user, number = f"busy{replica}", 0
        while not stop.is_set():
            seq = click(stack, replica, user, f"i{number % ITEMS}")
            number += 1
            url = f"/v1/users/{user}/recommendations"
            mine = stack.replicas[1 - replica].get(url)
            its = stack.replicas[replica].get(idle)
            if not mine.status_code == its.status_code == 200:
                wrong.append((mine.text, its.text))
                return
            answer, other = mine.json(), its.json()
            if (seq, answer["user_seq"], answer["degraded"]) != (number, number, []):
                wrong.append((seq, number, answer))
            if lists.setdefault(other["generation"], other["items"]) != other["items"]:
                wrong.append(("another list of the same generation", other))
            asked[replica] += 1

    threads = [threading.Thread(target=traffic, args=(replica,)) for replica in (0, 1)]
    for thread in threads:
        thread.start()
    for to in ("g2", "g1") * 3:
        stop.wait(0.25)
        stack.flip(to)
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert wrong == []
    assert min(asked) > 5
    assert lists.keys() == {"g1", "g2"}
    for replica in (0, 1):
        back = stack.replicas[replica].get(idle).json()
        assert (back["generation"], back["items"]) == ("g1", before["items"])


def test_without_a_generation_lists_are_503_and_the_log_still_takes_events(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    engine = open_engine(url)
    migrate(engine)
    settings = ServeSettings(watch_interval_s=0.05)

    async def embed(texts: list[str]) -> Any:
        return ENCODER_ID, np.stack([words_vector(text) for text in texts])

    store = StoreSettings(database_url=url, artifact_root=tmp_path)
    with TestClient(
        build_api(settings, lambda: Day.start(store, settings, embed)), base_url="http://127.0.0.1"
    ) as client:
        for refused in (
            client.get(LIST),
            client.get("/readyz"),
            client.post("/v1/search", json={"text": "space"}),
            client.post("/v1/recommendations", json={"users": ["u"]}),
        ):
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["hint"]
        assert client.get("/healthz").status_code == 200
        assert client.put("/v1/items/a", json={"title": "space"}).status_code == 200
        event = {"user_id": "u", "kind": "click", "item_id": "a"}
        assert client.post("/v1/events", json=event).json()["events"][0]["user_seq"] == 1
        assert client.get("/v1/users/u").json()["generation"] is None
    engine.dispose()


def test_while_bert_is_away_every_route_that_needs_it_says_so(stack: Stack) -> None:
    stack.bert_is_there = False
    before = stack.replicas[0].get("/v1/status").json()["catalog_seq"]
    items = {"items": [{"item_id": "n1", "title": "a"}, {"item_id": "n2", "title": "b"}]}
    for refused in (
        stack.replicas[0].put("/v1/items/n", json={"title": "space"}),
        stack.replicas[0].put("/v1/items", json=items),
        stack.replicas[0].post("/v1/search", json={"text": "space"}),
    ):
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
    assert stack.replicas[1].get("/v1/status").json()["catalog_seq"] == before
    comment = {"user_id": "u", "kind": "comment", "item_id": "i1", "text": "a fine rook"}
    assert stack.replicas[0].post("/v1/events", json=comment).status_code == 200
    click(stack, 0, "u", "i2")
    for replica in (0, 1):
        marked = stack.replicas[replica].get(LIST).json()
        assert (marked["user_seq"], marked["degraded"]) == (2, ["text_not_embedded"])
        assert "i2" not in [item["item_id"] for item in marked["items"]]
    stack.bert_is_there = True
    deadline = time.monotonic() + 20  # it was left alone: a request a second tries it again
    while stack.replicas[0].get(LIST).json()["degraded"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    healed = [stack.replicas[replica].get(LIST, params={"as_of": AS_OF}) for replica in (0, 1)]
    assert [answer.json()["degraded"] for answer in healed] == [[], []]
    assert healed[0].json()["items"] == healed[1].json()["items"]
    # What was embedded late is what would have been embedded at once.
    twin = {**comment, "user_id": "twin"}
    assert stack.replicas[0].post("/v1/events", json=twin).status_code == 200
    click(stack, 0, "twin", "i2")
    twins = stack.replicas[1].get("/v1/users/twin/recommendations", params={"as_of": AS_OF})
    assert twins.json()["items"] == healed[0].json()["items"]


def test_many_lists_at_once_are_the_lists_one_by_one(stack: Stack) -> None:
    for number, user in enumerate(("a", "b", "c")):
        click(stack, number % 2, user, f"i{number}")
    body = {"users": ["c", "a", "new", "b"], "k": 7, "as_of": AS_OF}
    many = stack.replicas[0].post("/v1/recommendations", json=body).json()["results"]
    assert [result["user_id"] for result in many] == body["users"]
    for result in many:
        url = f"/v1/users/{result['user_id']}/recommendations"
        one = stack.replicas[1].get(url, params={"k": 7, "as_of": AS_OF}).json()
        assert one["items"] == result["items"]
        assert one["basis"] == result["basis"]


def test_never_fewer_than_k_where_so_many_are_eligible(stack: Stack) -> None:
    for number in range(0, ITEMS, 2):
        click(stack, number % 2, "u", f"i{number}")
    for k in (1, 5, 20, 500):
        for params, eligible in (
            ({}, {f"i{n}" for n in range(1, ITEMS, 2)}),
            ({"category": "pasta"}, {f"i{n}" for n in range(1, ITEMS, 4)}),
            ({"category": "space"}, set()),  # all of them were seen
            ({"category": "space", "exclude_seen": "false"}, {f"i{n}" for n in range(0, ITEMS, 4)}),
            ({"exclude": "i1"}, {f"i{n}" for n in range(3, ITEMS, 2)}),
        ):
            answer = stack.replicas[0].get(LIST, params={"k": k, **params}).json()
            listed = [item["item_id"] for item in answer["items"]]
            assert len(listed) == min(k, len(eligible)), (k, params)
            assert set(listed) <= eligible


def test_search_and_similar_show_nothing_that_is_deleted_or_was_hidden(stack: Stack) -> None:
    hide = {"user_id": "u", "kind": "hide", "item_id": "i4"}
    assert stack.replicas[0].post("/v1/events", json=hide).status_code == 200
    assert stack.replicas[0].delete("/v1/items/i8").status_code == 200
    search = {"text": "space pasta", "user_id": "u", "k": 100}
    found = stack.replicas[1].post("/v1/search", json=search).json()
    assert found["user_seq"] == 1
    listed = {item["item_id"] for item in found["items"]}
    assert listed == {f"i{n}" for n in range(ITEMS)} - {"i4", "i8"}
    similar = stack.replicas[1].get("/v1/items/i0/similar?k=100").json()
    assert {i["item_id"] for i in similar["items"]} == {f"i{n}" for n in range(1, ITEMS)} - {"i8"}


def test_a_new_user_gets_k_popular_items_none_of_them_deleted(stack: Stack) -> None:
    for number in range(6):
        click(stack, 0, f"fan{number}", "i7")
    assert stack.replicas[0].delete("/v1/items/i0").status_code == 200
    answer = stack.replicas[1].get("/v1/users/new/recommendations", params={"k": ITEMS - 1})
    listed = [item["item_id"] for item in answer.json()["items"]]
    assert answer.json()["basis"] == "popularity"
    assert sorted(listed) == sorted(f"i{n}" for n in range(1, ITEMS))
    assert listed[0] == "i7"


@contextmanager
def database_gone(stack: Stack, replica: int) -> Iterator[None]:
    """As where Postgres is killed: no statement is answered, and no new connection is."""
    engine = day_of(stack, replica).engine

    def refuse(*_: Any) -> None:
        raise OperationalError("SELECT", None, ConnectionError("the server closed the connection"))

    event.listen(engine, "before_cursor_execute", refuse)
    event.listen(engine, "checkout", refuse)
    try:
        yield
    finally:
        event.remove(engine, "checkout", refuse)
        event.remove(engine, "before_cursor_execute", refuse)


def day_of(stack: Stack, replica: int) -> Day:
    day: Day = stack.replicas[replica].app.state.day  # type: ignore[attr-defined]
    return day


def test_without_the_database_lists_go_on_with_their_age_and_nothing_is_acknowledged(
    stack: Stack,
) -> None:
    click(stack, 0, "held", "i1")
    hide = {"user_id": "held", "kind": "hide", "item_id": "i2"}
    assert stack.replicas[0].post("/v1/events", json=hide).status_code == 200
    held = "/v1/users/held/recommendations"
    asked_at = datetime.now(UTC)
    before = stack.replicas[0].get(held, params={"k": ITEMS}).json()
    with database_gone(stack, 0):
        for again in range(2):
            answer = stack.replicas[0].get(held, params={"k": ITEMS}).json()
            assert answer["degraded"] == ["database_gone"], again
            assert answer["items"] == before["items"]
            assert (answer["user_seq"], answer["generation"]) == (2, "g1")
            # Its age, in whole milliseconds: between the last read and the end of the database.
            as_of = datetime.fromisoformat(answer["as_of"])
            assert asked_at - timedelta(milliseconds=1) < as_of <= datetime.now(UTC)
            assert answer["as_of"] <= before["as_of"]
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        pinned = stack.replicas[0].get(held, params={"as_of": later}).json()
        assert pinned["as_of"] == answer["as_of"]  # it is not of the moment that was asked for
        for refused in (
            stack.replicas[0].get("/v1/users/never-asked/recommendations"),
            stack.replicas[0].post("/v1/events", json={**hide, "event_id": "lost?"}),
            stack.replicas[0].put("/v1/items/new", json={"title": "space"}),
            stack.replicas[0].delete("/v1/users/held"),
            stack.replicas[0].get("/readyz"),
        ):
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) > 0
        missed_ms = int(refused.headers["moonlark-since"])  # of /readyz, asked last
        later_on = stack.replicas[0].get("/readyz")
        assert int(later_on.headers["moonlark-since"]) == missed_ms
        assert asked_at.timestamp() * 1000 - 1 <= missed_ms <= time.time() * 1000
        click(stack, 1, "held", "i3")  # elsewhere the database is there
        stale = stack.replicas[0].get(held).json()
        assert (stale["user_seq"], stale["as_of"]) == (2, answer["as_of"])
    healed = stack.replicas[0].get(held).json()
    assert (healed["user_seq"], healed["degraded"]) == (3, [])
    troubles = stack.replicas[0].get("/v1/status").json()["troubles"]
    assert troubles.keys() >= {"database_gone", "errors", "store_away"}
    assert datetime.fromisoformat(troubles["database_gone"]) >= asked_at - timedelta(seconds=1)
    assert "i3" not in [item["item_id"] for item in healed["items"]]


def test_without_the_database_pins_and_boosts_stay_in_force(stack: Stack) -> None:
    click(stack, 0, "u", "i1")
    pin = {"kind": "pin", "item_id": "i30", "position": 1}
    assert stack.replicas[1].put("/v1/policies/first", json=pin).status_code == 200
    assert stack.replicas[0].get(LIST).json()["items"][0]["item_id"] == "i30"
    with database_gone(stack, 0):
        assert stack.replicas[0].get(LIST).json()["items"][0]["item_id"] == "i30"
