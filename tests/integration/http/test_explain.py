"""`explain=true`: the parts of a score, where the item was found, the past events nearest to it."""

from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.encoders.item_text import compose
from serve import explain
from serve.day import Day
from tests.integration.http.conftest import ITEMS, Stack, words_vector

AS_OF = "2026-11-24T00:00:00Z"
LIST = "/v1/users/u/recommendations"


def post(stack: Stack, *events: dict[str, Any]) -> None:
    body = {"events": [{"user_id": "u", **event} for event in events]}
    answer = stack.replicas[0].post("/v1/events", json=body)
    assert answer.status_code == 200, answer.text


def explained(stack: Stack, **params: Any) -> dict[str, Any]:
    params = {"k": ITEMS, "as_of": AS_OF, "explain": True, **params}
    answer = stack.replicas[1].get(LIST, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def text_of(stack: Stack, item_id: str) -> str:
    item = stack.replicas[0].get(f"/v1/items/{item_id}").json()
    return compose(item["title"], item["text"], item["category"])


def space(stack: Stack, texts: list[str]) -> Any:
    """Vectors of texts in the generation's space."""
    day: Day = stack.replicas[0].app.state.day  # type: ignore[attr-defined]
    (generation,) = day.watch.loaded.values()
    return generation.encoder.text_vectors(np.stack([words_vector(text) for text in texts]))


EVENTS: tuple[dict[str, Any], ...] = (
    {"kind": "click", "item_id": "i1", "event_id": "a"},
    {"kind": "search", "text": "space battle", "event_id": "b"},
    {"kind": "click", "item_id": "i2", "event_id": "undone"},
    {"kind": "rating", "item_id": "i3", "value": 1.0, "event_id": "replaced"},
    {"kind": "undo", "undoes": "undone", "event_id": "c"},
    {"kind": "rating", "item_id": "i3", "value": 5.0, "event_id": "d"},
    {"kind": "comment", "item_id": "i4", "text": "garden rose", "event_id": "e"},
)


def test_each_item_says_its_parts_its_source_and_the_events_nearest_to_it(stack: Stack) -> None:
    post(stack, *EVENTS)
    for item_id, title in (("new", "space battle"), ("i7", "soup rose")):
        put = stack.replicas[0].put(f"/v1/items/{item_id}", json={"title": title})
        assert put.status_code == 200, put.text
    answer = explained(stack)
    texts = {"b": "space battle", "e": "garden rose"} | {
        event_id: text_of(stack, item_id) for event_id, item_id in (("a", "i1"), ("d", "i3"))
    }
    events = dict(zip(texts, space(stack, list(texts.values())), strict=True))
    assert len(answer["items"]) == ITEMS - 1  # i1 and i3 were seen
    for item in answer["items"]:
        why = item["explanation"]
        assert why["parts"]["cosine"] == item["score"]
        assert why["source"] == ("delta" if item["item_id"] in ("new", "i7") else "base")
        vector = space(stack, [text_of(stack, item["item_id"])])[0]
        expected = {event_id: float(vector @ event) for event_id, event in events.items()}
        nearest = sorted(expected, key=lambda event_id: -expected[event_id])[:3]
        told = why["nearest_events"]  # of those that count; the shards hold fp16
        assert [event["event_id"] for event in told] == nearest
        for event in told:
            assert abs(event["cosine"] - expected[event["event_id"]]) < 2e-3
    (new,) = (item for item in answer["items"] if item["item_id"] == "new")
    first = new["explanation"]["nearest_events"][0]
    assert abs(first.pop("cosine") - 1) < 2e-3  # a search for the very words of the item
    assert first == {"event_id": "b", "user_seq": 2, "kind": "search", "text": "space battle"}


def test_a_list_that_is_not_explained_is_the_same_list(stack: Stack) -> None:
    post(stack, *EVENTS)
    with_why = explained(stack)["items"]
    plain = explained(stack, explain=False)["items"]
    assert [item.keys() for item in plain] == [{"item_id", "score", "title", "category"}] * len(
        plain
    )
    assert [{k: v for k, v in item.items() if k != "explanation"} for item in with_why] == plain
    assert explained(stack, k=5, offset=3)["items"] == with_why[3:8]


def test_a_new_user_is_told_that_it_is_popularity(stack: Stack) -> None:
    for replica in (0, 1):
        click = {"user_id": "other", "kind": "click", "item_id": "i5", "event_id": f"e{replica}"}
        assert stack.replicas[replica].post("/v1/events", json=click).status_code == 200
    answer = explained(stack)
    assert answer["basis"] == "popularity"
    for item in answer["items"]:
        others = {"boost": 0, "pin": 0}
        assert item["explanation"]["parts"] == {"popularity": item["score"], **others}
        assert item["explanation"]["nearest_events"] == []
        assert item["explanation"]["source"] == "base"


def test_many_users_and_inline_events_are_explained_alike(stack: Stack) -> None:
    post(stack, *EVENTS)
    one = explained(stack)["items"]
    body = {"k": ITEMS, "as_of": AS_OF, "explain": True}
    many = stack.replicas[0].post("/v1/recommendations", json={**body, "users": ["u", "new"]})
    assert many.json()["results"][0]["items"] == one
    inline = stack.replicas[0].post("/v1/recommendations", json={**body, "events": EVENTS})
    assert inline.json()["results"][0]["items"] == one


def test_of_equally_near_events_the_newest_is_told_first(stack: Stack) -> None:
    post(stack, *({"kind": "view", "item_id": "i1", "event_id": f"v{n}"} for n in range(5)))
    for item in explained(stack)["items"]:
        told = [event["user_seq"] for event in item["explanation"]["nearest_events"]]
        assert told == [5, 4, 3]


def test_an_item_is_compared_with_its_residual_and_a_text_without(stack: Stack) -> None:
    post(stack, *EVENTS)
    day: Day = stack.replicas[0].app.state.day  # type: ignore[attr-defined]
    state = day.states.read("u")
    encoder = state.generation.encoder
    asked_for: list[int] = []

    class Recording:
        dim = encoder.dim

        def item_vectors(self, bert: Any, ordinals: Any) -> Any:
            asked_for.extend(ordinals.tolist())
            return encoder.item_vectors(bert, ordinals)

    class Generation:
        encoder_id, encoder = state.generation.encoder_id, Recording()
        text_vectors = state.generation.text_vectors

    generation: Any = Generation()
    explain.read_past(stack.engine, replace(state, generation=generation))
    assert asked_for == [-1, 3, -1, 1]  # comment on i4, rating of i3, search, click on i1


def test_only_the_last_events_that_count_are_compared(stack: Stack, monkeypatch: Any) -> None:
    monkeypatch.setattr(explain, "MAX_PAST", 2)
    post(stack, *EVENTS)
    for item in explained(stack)["items"]:
        told = {event["event_id"] for event in item["explanation"]["nearest_events"]}
        assert told == {"d", "e"}
