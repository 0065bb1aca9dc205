"""The promises of the API, over two replicas that share only the database."""

import time
from typing import Any

import numpy as np
import pytest

from tests.integration.http.conftest import ITEMS, Stack

AS_OF = "2026-11-24T00:00:00Z"


def post(stack: Stack, replica: int, **event: Any) -> dict[str, Any]:
    answer = stack.replicas[replica].post("/v1/events", json=event)
    assert answer.status_code == 200, answer.text
    stored: dict[str, Any] = answer.json()["events"][0]
    return stored


def listed(stack: Stack, replica: int, user: str, **params: Any) -> dict[str, Any]:
    url = f"/v1/users/{user}/recommendations"
    answer = stack.replicas[replica].get(url, params={"k": ITEMS, "as_of": AS_OF, **params})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_each_event_and_item_change_is_in_the_next_answer_of_the_other_replica(
    stack: Stack,
) -> None:
    rng = np.random.default_rng(0)
    hidden: dict[str, str] = {}
    undoable: list[tuple[str, str | None]] = []
    for step in range(60):
        here, there = step % 2, (step + 1) % 2
        item = f"i{rng.integers(ITEMS)}"
        kind = str(rng.choice(["click", "rating", "hide", "dislike", "search", "undo"]))
        event: dict[str, Any] = {"user_id": "u", "kind": kind, "event_id": f"e{step}"}
        if kind == "search":
            event["text"] = "space battle"
        elif kind == "undo":
            if not undoable:
                continue
            target, _ = undoable.pop()
            event["undoes"] = target
            hidden.pop(target, None)
        else:
            event["item_id"] = item
            event |= {"value": 4.0} if kind == "rating" else {}
            hidden[f"e{step}"] = item
        if kind in ("click", "hide", "dislike"):
            undoable.append((f"e{step}", item))
        stored = post(stack, here, **event)
        answer = listed(stack, there, "u")
        assert answer["user_seq"] == stored["user_seq"]
        assert answer["degraded"] == []
        shown = ids(answer)
        assert not set(shown) & set(hidden.values())
        assert len(shown) == len(set(shown)) == ITEMS - len(set(hidden.values()))
        scores = {i["item_id"]: i["score"] for i in answer["items"]}
        ours = {i["item_id"]: i["score"] for i in listed(stack, here, "u")["items"]}
        assert scores == pytest.approx(ours, abs=1e-5)


def test_undo_gives_the_same_list_back(stack: Stack) -> None:
    post(stack, 0, user_id="u", kind="click", item_id="i1", event_id="a")
    before = listed(stack, 1, "u")
    post(stack, 0, user_id="u", kind="click", item_id="i2", event_id="b")
    assert ids(listed(stack, 1, "u")) != ids(before)
    post(stack, 0, user_id="u", kind="undo", undoes="b", event_id="c")
    after = listed(stack, 1, "u")
    assert after["items"] == before["items"]
    assert after["user_seq"] == 3


def test_items_put_edited_and_deleted_are_in_force_at_once(stack: Stack) -> None:
    post(stack, 0, user_id="u", kind="click", item_id="i0", event_id="a")
    put = stack.replicas[0].put("/v1/items/new", json={"title": "space battle", "version": 2})
    assert put.status_code == 200, put.text
    answer = listed(stack, 1, "u", k=100)
    assert answer["catalog_seq"] == put.json()["catalog_seq"]
    assert "new" in ids(answer)
    stale = stack.replicas[1].put("/v1/items/new", json={"title": "late", "version": 1})
    assert stale.status_code == 409
    assert stale.json()["errors"][0]["field"] == "version"
    assert stack.replicas[1].delete("/v1/items/new").status_code == 200
    assert "new" not in ids(listed(stack, 0, "u", k=100))
    assert stack.replicas[0].get("/v1/items/new").status_code == 404
    assert stack.replicas[0].get("/v1/items/new/similar").status_code == 404


def test_pages_tile_the_list_and_filters_hold(stack: Stack) -> None:
    post(stack, 0, user_id="u", kind="click", item_id="i0", event_id="a")
    whole = ids(listed(stack, 0, "u"))
    pages = [ids(listed(stack, 1, "u", k=7, offset=offset)) for offset in range(0, ITEMS, 7)]
    assert [item for page in pages for item in page] == whole
    filtered = listed(stack, 0, "u", category="space", attribute="n:0")
    wanted = {f"i{n}" for n in range(ITEMS) if n % 4 == 0 and n % 5 == 0} - {"i0"}
    assert set(ids(filtered)) == wanted
    assert "i4" not in ids(listed(stack, 0, "u", exclude="i4"))
    assert "i0" in ids(listed(stack, 0, "u", exclude_seen="false"))


def test_a_retry_is_harmless_and_another_body_is_refused(stack: Stack) -> None:
    event = {"user_id": "u", "kind": "click", "item_id": "i1", "event_id": "a"}
    first = post(stack, 0, **event)
    assert post(stack, 1, **event) == {**first, "duplicate": True}
    other = stack.replicas[0].post("/v1/events", json={**event, "item_id": "i2"})
    assert other.status_code == 409
    assert listed(stack, 0, "u")["user_seq"] == 1


def test_a_switch_and_a_rollback_give_an_idle_user_the_same_list(stack: Stack) -> None:
    post(stack, 0, user_id="idle", kind="click", item_id="i1", event_id="a")
    before = listed(stack, 0, "idle")
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    post(stack, 0, user_id="other", kind="click", item_id="i3", event_id="b")
    second = listed(stack, 1, "idle")
    assert second["generation"] == "g2"
    assert second["items"] != before["items"]
    assert listed(stack, 1, "other")["user_seq"] == 1
    stack.flip("g1", hold=True)
    for replica in (0, 1):
        back = listed(stack, replica, "idle")
        assert (back["generation"], back["items"]) == ("g1", before["items"])
        assert listed(stack, replica, "other")["user_seq"] == 1


@pytest.mark.parametrize("damaged", ["shards/0000.faiss", "weights.safetensors", "items.parquet"])
def test_a_corrupt_generation_is_refused_and_the_last_good_one_answers_marked(
    stack: Stack, damaged: str
) -> None:
    stack.publish("g2", seed=2, damaged=damaged)
    stack.flip("g2")
    for replica in stack.replicas:
        answer = replica.get("/v1/users/u/recommendations").json()
        assert (answer["generation"], answer["degraded"]) == ("g1", ["generation_behind"])
        assert replica.get("/readyz").status_code == 503
    deadline = time.monotonic() + 10
    while "g2" not in (refused := stack.replicas[0].get("/v1/status").json()["refused"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert damaged in refused["g2"]


def test_status_tells_how_much_of_the_log_each_generation_knows(stack: Stack) -> None:
    for number in range(3):
        post(stack, 0, user_id="u", kind="click", item_id=f"i{number}")
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    post(stack, 1, user_id="u", kind="click", item_id="i9")
    status = stack.replicas[1].get("/v1/status").json()
    assert status["events"] == 4
    known = {held["generation"]: held["generation_events"] for held in status["loaded"]}
    assert known == {"g1": 0, "g2": 3}


def test_a_search_stored_while_bert_is_away_is_embedded_later(stack: Stack) -> None:
    stack.bert_is_there = False
    post(stack, 0, user_id="u", kind="search", text="space battle", event_id="a")
    assert listed(stack, 1, "u")["degraded"] == ["text_not_embedded"]
    refused = stack.replicas[0].put("/v1/items/new", json={"title": "space"})
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert stack.replicas[0].get("/v1/items/new").status_code == 404
    stack.bert_is_there = True
    healed = listed(stack, 1, "u")
    assert (healed["degraded"], healed["user_seq"], healed["basis"]) == ([], 1, "session")


def test_erasure_forgets_and_says_what(stack: Stack) -> None:
    post(stack, 0, user_id="u", kind="click", item_id="i1", event_id="a")
    listed(stack, 0, "u")
    receipt = stack.replicas[1].delete("/v1/users/u").json()
    assert receipt["erased"]["users"] == receipt["erased"]["events"] == 1
    assert stack.replicas[0].get("/v1/users/u").status_code == 404
    assert listed(stack, 0, "u")["basis"] == "popularity"


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "field"),
    [
        ("POST", "/v1/events", {"kind": "click", "user_id": "u", "item_id": "no"}, 422, "item_id"),
        ("POST", "/v1/events", {"kind": "click", "user_id": "", "item_id": "i1"}, 422, "user_id"),
        (
            "POST",
            "/v1/events",
            {"kind": "rating", "user_id": "u", "item_id": "i1", "value": 9},
            422,
            "value",
        ),
        ("POST", "/v1/events", {"events": []}, 422, "events"),
        ("POST", "/v1/events", {"kind": "undo", "user_id": "u", "undoes": "no"}, 409, "undoes"),
        ("GET", "/v1/users/u/recommendations?k=1000000000", None, 422, "k"),
        ("GET", "/v1/users/u/recommendations?attribute=x", None, 422, "attribute"),
        ("PUT", "/v1/items/x", {"title": "t", "colour": "red"}, 422, "colour"),
        ("POST", "/v1/recommendations", {"users": []}, 422, "users"),
        ("GET", "/v1/items/none", None, 404, "item_id"),
    ],
)
def test_bad_input_gets_a_problem_document_that_names_the_field(
    stack: Stack, method: str, url: str, body: Any, status: int, field: str
) -> None:
    answer = stack.replicas[0].request(method, url, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert any(error["field"].endswith(field) for error in problem["errors"]), problem
    assert all(error["accepted"] for error in problem["errors"])


def test_a_body_beyond_the_limit_is_refused(stack: Stack) -> None:
    answer = stack.replicas[0].post("/v1/events", content=b"x" * 3_000_000)
    assert answer.status_code == 413
