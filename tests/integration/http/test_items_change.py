"""Promise 6 over HTTP: what is put, withdrawn, deleted or put again is in force at once, by any
path, on every replica, in every generation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ray_jobs.encoders.item_text import text_digest
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql import catalog
from sql.settings import StoreSettings
from tests.integration.http.conftest import ITEMS, Stack

AS_OF = "2026-11-24T00:00:00Z"
BODY = {"title": "space battle again", "category": "space"}


@contextmanager
def one_more_replica(stack: Stack, settings: ServeSettings) -> Iterator[TestClient]:
    """A replica that starts now: what a restarted one knows."""
    store = StoreSettings(
        database_url=stack.engine.url.render_as_string(False), artifact_root=stack.root
    )
    api = build_api(settings, lambda: Day.start(store, settings, stack.embed))
    with TestClient(api, base_url="http://127.0.0.1", raise_server_exceptions=False) as replica:
        yield replica


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def every_list(replica: TestClient, user: str) -> dict[str, list[str]]:
    """Item ids by the path that may show them."""
    everything = {"k": 500, "as_of": AS_OF}
    search = {"text": "space battle", "k": 500}
    return {
        "session": ids(replica.get(f"/v1/users/{user}/recommendations", params=everything)),
        "filtered": ids(
            replica.get(
                f"/v1/users/{user}/recommendations", params={**everything, "category": "space"}
            )
        ),
        "popularity": ids(replica.get("/v1/users/nobody/recommendations", params=everything)),
        "similar": ids(replica.get("/v1/items/i1/similar", params={"k": 500})),
        "search": ids(replica.post("/v1/search", json=search)),
        "personal search": ids(replica.post("/v1/search", json={**search, "user_id": user})),
    }


PERSONAL = ("session", "filtered", "personal search")


def post(replica: TestClient, **event: Any) -> None:
    answer = replica.post("/v1/events", json={"user_id": "u", **event})
    assert answer.status_code == 200, answer.text


def put(replica: TestClient, item_id: str, **body: Any) -> dict[str, Any]:
    answer = replica.put(f"/v1/items/{item_id}", json={**BODY, **body})
    assert answer.status_code == 200, answer.text
    change: dict[str, Any] = answer.json()
    return change


@pytest.mark.parametrize("kind", ["hide", "dislike", "click"])
def test_an_id_that_is_deleted_and_put_again_does_not_come_back_to_who_left_it(
    stack: Stack, serve_settings: ServeSettings, kind: str
) -> None:
    here, there = stack.replicas
    # A click is `seen`, which a search leaves in.
    barred = ("session", "filtered") if kind == "click" else PERSONAL

    def check(replica: TestClient) -> None:
        for path, listed in every_list(replica, "u").items():
            assert ("i4" in listed) == (path not in barred), path
            assert len(listed) == len(set(listed))
        # Who never met it gets it.
        assert "i4" in every_list(replica, "v")["session"]

    post(here, kind=kind, item_id="i4", event_id="a")
    post(here, kind="click", item_id="i1", event_id="b")
    post(here, kind="click", item_id="i1", user_id="v", event_id="b")
    for _ in range(2):
        assert here.delete("/v1/items/i4").status_code == 200
        assert all("i4" not in listed for listed in every_list(there, "u").values())
        put(there, "i4")
        check(here)
        check(there)
    put(here, "i4", title="space battle, edited")
    with one_more_replica(stack, serve_settings) as restarted:
        check(restarted)

    stack.publish("g2", seed=2)  # made after the id came back: its files carry the mapping
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    for replica in stack.replicas:
        check(replica)
    assert here.delete("/v1/items/i4").status_code == 200
    put(here, "i4")  # a third life, on top of the files of g2
    for replica in stack.replicas:
        check(replica)
    stack.flip("g1", hold=True)
    for replica in stack.replicas:
        check(replica)
    with one_more_replica(stack, serve_settings) as restarted:
        check(restarted)

    post(here, kind="undo", undoes="a", event_id="c")
    assert "i4" in every_list(there, "u")["session"]


def test_the_user_may_hide_the_new_life_and_undo_that(stack: Stack) -> None:
    here, there = stack.replicas
    post(here, kind="click", item_id="i1", event_id="a")
    here.delete("/v1/items/i4")
    put(here, "i4")
    post(there, kind="hide", item_id="i4", event_id="b")
    assert "i4" not in every_list(here, "u")["session"]
    post(there, kind="undo", undoes="b", event_id="c")
    assert "i4" in every_list(here, "u")["session"]


def test_a_withdrawn_item_is_in_no_list_and_comes_back_as_it_was(
    stack: Stack, serve_settings: ServeSettings
) -> None:
    here, there = stack.replicas
    post(here, kind="click", item_id="i1", event_id="a")
    shown = here.get("/v1/items/i4").json()
    body = {name: shown[name] for name in ("title", "text", "category", "attributes")}
    before = every_list(there, "u")
    assert all("i4" in listed for listed in before.values())

    def gone(replica: TestClient) -> None:
        assert all("i4" not in listed for listed in every_list(replica, "u").values())
        assert not replica.get("/v1/items/i4").json()["available"]
        # "Sold out; see these": its vector is still known.
        alike = ids(replica.get("/v1/items/i4/similar", params={"k": 500}))
        assert len(alike) == ITEMS - 1

    withdrawn = put(here, "i4", **body, available=False, version=2)
    assert withdrawn["outcome"] == "updated"
    for replica in stack.replicas:
        gone(replica)
    assert put(there, "i4", **body, available=False, version=2)["outcome"] == "unchanged"
    with one_more_replica(stack, serve_settings) as restarted:
        gone(restarted)
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    with one_more_replica(stack, serve_settings) as restarted:
        for replica in (*stack.replicas, restarted):
            gone(replica)
    stack.flip("g1", hold=True)
    for replica in stack.replicas:
        gone(replica)
    # The user may still act on it, from an old page.
    post(here, kind="favourite", item_id="i4", event_id="b")
    post(here, kind="undo", undoes="b", event_id="c")
    late = here.put("/v1/items/i4", json={**body, "version": 1})
    assert late.status_code == 409
    gone(there)
    put(here, "i4", **body, version=3)
    assert every_list(there, "u") == before
    stack.flip("g2")
    for replica in stack.replicas:
        assert all("i4" in listed for listed in every_list(replica, "u").values())


def test_one_version_is_one_body(stack: Stack) -> None:
    here, there = stack.replicas
    first = put(here, "new", version=3)
    assert first["outcome"] == "created"
    again = put(there, "new", version=3)
    assert (again["outcome"], again["catalog_seq"]) == ("unchanged", first["catalog_seq"])
    for version in (3, 2):
        other = there.put("/v1/items/new", json={**BODY, "title": "another", "version": version})
        assert other.status_code == 409
        assert other.json()["errors"][0]["accepted"] == "a version above 3"
    assert here.get("/v1/items/new").json()["title"] == BODY["title"]
    assert here.delete("/v1/items/new?version=2").status_code == 409
    assert here.delete("/v1/items/new?version=4").status_code == 200
    assert there.put("/v1/items/new", json={**BODY, "version": 4}).status_code == 409
    assert put(there, "new", version=5)["outcome"] == "created"


def test_the_delta_survives_restarts_switches_and_rollbacks(
    stack: Stack, serve_settings: ServeSettings
) -> None:
    """The same lists whichever way a replica came to where the catalog is."""
    here, there = stack.replicas
    post(here, kind="click", item_id="i1", event_id="a")
    put(here, "new")
    put(here, "i8", title="space chess edited")
    here.delete("/v1/items/i12")
    expected = set(every_list(here, "u")["session"])
    assert {"new", "i8"} <= expected
    assert "i12" not in expected

    def check(replica: TestClient, generation: str) -> None:
        answer = replica.get(
            "/v1/users/u/recommendations", params={"k": 500, "as_of": AS_OF}
        ).json()
        assert (answer["generation"], answer["degraded"]) == (generation, [])
        assert {item["item_id"] for item in answer["items"]} == expected

    stack.publish("g2", seed=2)
    put(there, "i16", title="garden edited after the night")
    put(there, "newer")
    here.delete("/v1/items/i20")
    expected = (expected | {"newer"}) - {"i20"}
    for generation in ("g1", "g2", "g1"):
        stack.wait_until_loaded(generation)
        stack.flip(generation)
        with one_more_replica(stack, serve_settings) as restarted:
            for replica in (*stack.replicas, restarted):
                check(replica, generation)


def test_a_list_is_as_long_as_what_may_be_shown(stack: Stack) -> None:
    here, there = stack.replicas
    post(here, kind="click", item_id="i1", event_id="a")
    for number in range(3):
        put(here, f"rare{number}", category="rare")
    rare = there.get("/v1/users/u/recommendations", params={"k": 20, "category": "rare"})
    assert sorted(ids(rare)) == ["rare0", "rare1", "rare2"]
    everything = {"k": 20, "exclude": [f"i{n}" for n in range(ITEMS)] + ["rare0", "rare2"]}
    assert ids(there.get("/v1/users/u/recommendations", params=everything)) == ["rare1"]
    for number in range(5, ITEMS):
        assert here.delete(f"/v1/items/i{number}").status_code == 200
    left = there.get("/v1/users/u/recommendations", params={"k": 20, "exclude_seen": False})
    assert sorted(ids(left)) == ["i0", "i1", "i2", "i3", "i4", "rare0", "rare1", "rare2"]


def test_neither_a_pin_nor_a_boost_brings_a_withdrawn_or_a_left_item_back(stack: Stack) -> None:
    here, there = stack.replicas
    post(here, kind="click", item_id="i1", event_id="a")
    for name, policy in (
        ("pin", {"kind": "pin", "item_id": "i4", "position": 1}),
        ("boost", {"kind": "boost", "item_id": "i4", "weight": 0.5}),
    ):
        answer = here.put(f"/v1/policies/{name}", json=policy)
        assert answer.status_code == 200, answer.text
    asked = {"k": 500, "as_of": AS_OF}
    shown = [f"/v1/users/{user}/recommendations" for user in ("u", "nobody")]
    assert [ids(there.get(url, params=asked))[0] for url in shown] == ["i4", "i4"]
    put(here, "i4", available=False)
    assert all("i4" not in ids(there.get(url, params=asked)) for url in shown)
    put(here, "i4")
    assert [ids(there.get(url, params=asked))[0] for url in shown] == ["i4", "i4"]
    post(here, kind="hide", item_id="i4", event_id="b")
    here.delete("/v1/items/i4")
    put(here, "i4")
    assert "i4" not in ids(there.get(shown[0], params=asked))


def test_an_edit_whose_text_has_no_vector_yet_is_not_found_by_its_old_one(stack: Stack) -> None:
    """As after an ingest without BERT: known by id, in no list until a vector is there."""
    body = catalog.ItemBody(title="a quiet romance", category="space")
    put = catalog.ItemPut("i1", body, "a quiet romance", text_digest("a quiet romance"), None, {})
    catalog.put_items(stack.engine, [put], at_ms=1)
    for replica in stack.replicas:
        assert replica.get("/v1/items/i1").json()["title"] == "a quiet romance"
        assert replica.get("/v1/items/i1/similar").status_code == 409
        found = ids(replica.post("/v1/search", json={"text": "space battle", "k": 500}))
        assert "i1" not in found
        assert "i2" in found


def test_what_was_hidden_or_seen_before_it_was_put_stays_away_on_every_replica(
    stack: Stack,
) -> None:
    for number, kind in enumerate(("hide", "dislike", "click")):
        event = {"user_id": "u", "kind": kind, "item_id": f"later{number}"}
        kept = stack.replicas[0].post("/v1/events?on_unknown_item=keep", json=event)
        assert kept.status_code == 200, kept.text
    for number in range(3):
        body = {"title": "space battle"}
        assert stack.replicas[1].put(f"/v1/items/later{number}", json=body).status_code == 200
    for replica in stack.replicas:
        mine = replica.get("/v1/users/u/recommendations", params={"k": 100}).json()["items"]
        other = replica.get("/v1/users/other/recommendations", params={"k": 100}).json()["items"]
        later = {f"later{number}" for number in range(3)}
        assert not later & {item["item_id"] for item in mine}
        assert later <= {item["item_id"] for item in other}
