"""A vector of one encoder is never compared with those of another."""

from collections.abc import Sequence

import pytest

from ray_jobs.encoders.item_text import compose, text_digest
from sql import catalog
from tests.integration.http import conftest
from tests.integration.http.conftest import Stack

LIST = "/v1/users/u/recommendations"
ITEMS_MISSING = ["items_not_embedded"]


def listed(stack: Stack, replica: int, marks: Sequence[str] = ()) -> set[str]:
    answer = stack.replicas[replica].get(LIST, params={"k": 200})
    assert answer.status_code == 200, answer.text
    assert answer.json()["degraded"] == list(marks)
    return {item["item_id"] for item in answer.json()["items"]}


def test_a_put_that_the_live_generation_could_not_rank_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "ENCODER_ID", "words-2")
    stack.publish("g2", seed=2)
    monkeypatch.setattr(conftest, "ENCODER_ID", "words")
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    before = listed(stack, 1)
    answer = stack.replicas[0].put("/v1/items/i4", json={"title": "space battle"})
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
    assert listed(stack, 1) == before, "nothing was stored: the item stays in its lists"


def test_a_search_by_a_text_of_another_encoder_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "ENCODER_ID", "words-2")
    answer = stack.replicas[0].post("/v1/search", json={"text": "space", "k": 3})
    assert answer.status_code == 503, answer.text


def test_putting_an_item_again_brings_the_vector_that_it_lacked(stack: Stack) -> None:
    click = {"user_id": "u", "kind": "click", "item_id": "i1"}
    assert stack.replicas[0].post("/v1/events", json=click).status_code == 200
    title, text = "a quiet garden", compose("a quiet garden", "", None)
    body = catalog.ItemBody(title=title)
    bare = catalog.ItemPut("bare", body, text, text_digest(text), None, {})
    catalog.put_items(stack.engine, [bare], at_ms=1)
    assert all("bare" not in listed(stack, replica, ITEMS_MISSING) for replica in (0, 1))
    brought, again = (
        stack.replicas[0].put("/v1/items/bare", json={"title": title}).json() for _ in range(2)
    )
    assert brought["outcome"] == again["outcome"] == "unchanged"
    assert again["catalog_seq"] == brought["catalog_seq"], "the vector was there: no change"
    assert all("bare" in listed(stack, replica) for replica in (0, 1))


def test_after_a_rollback_to_another_encoder_lists_say_which_items_they_lack(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "ENCODER_ID", "words-2")
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    monkeypatch.setattr(conftest, "ENCODER_ID", "words")
    click = {"user_id": "u", "kind": "click", "item_id": "i1"}
    assert stack.replicas[0].post("/v1/events", json=click).status_code == 200
    put = stack.replicas[0].put("/v1/items/today", json={"title": "space battle"})
    assert put.status_code == 200, put.text
    assert "today" in listed(stack, 0)
    stack.flip("g2")
    for replica in (0, 1):
        assert "today" not in listed(stack, replica, ITEMS_MISSING)
        status = stack.replicas[replica].get("/v1/status").json()
        told = {g["generation"]: g["unembedded_items"] for g in status["loaded"]}
        assert told == {"g1": 0, "g2": 1}
    assert stack.replicas[1].delete("/v1/items/today").status_code == 200
    assert all("today" not in listed(stack, replica) for replica in (0, 1))
