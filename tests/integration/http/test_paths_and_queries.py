"""What may stand in a URL: ids of any characters, filters without types, known parameters only."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import Receive, Scope, Send

from serve.path_ids import WholeSegments
from tests.integration.http.conftest import Stack

ODD_IDS = (
    "a/b",
    "a/similar",
    "/",
    "a//b/",
    "a%2Fb",
    "a%252Fb",
    "100%",
    "%",
    "a b?c#d&e",
    "é/ü",
    "recommendations",
    "..%2F",
)


@pytest.mark.parametrize("item_id", ODD_IDS)
def test_an_item_id_of_any_characters_has_one_path(stack: Stack, item_id: str) -> None:
    here, there = stack.replicas
    path = f"/v1/items/{quote(item_id, safe='')}"
    assert here.put(path, json={"title": "space battle"}).json()["item_id"] == item_id
    got = there.get(path)
    assert (got.status_code, got.json()["item_id"]) == (200, item_id)
    assert got.json()["title"] == "space battle"
    similar = there.get(f"{path}/similar?k=3").json()
    assert similar["item_id"] == item_id
    assert len(similar["items"]) == 3
    assert here.delete(path).json()["item_id"] == item_id
    assert there.get(path).status_code == 404


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_a_user_id_of_any_characters_has_one_path(stack: Stack, user_id: str) -> None:
    here, there = stack.replicas
    event = {"user_id": user_id, "kind": "click", "item_id": "i1"}
    assert here.post("/v1/events", json=event).status_code == 200
    path = f"/v1/users/{quote(user_id, safe='')}"
    listed = there.get(f"{path}/recommendations").json()
    assert (listed["user_id"], listed["user_seq"]) == (user_id, 1)
    assert there.get(path).json()["user_id"] == user_id
    assert len(there.get(f"{path}/events").json()["events"]) == 1
    assert here.delete(path).json()["erased"]["users"] == 1
    assert there.get(path).status_code == 404


def test_an_encoded_slash_is_never_a_separator(stack: Stack) -> None:
    client = stack.replicas[0]
    assert client.put("/v1/items/i1%2Fsimilar", json={"title": "a"}).status_code == 200
    assert client.get("/v1/items/i1%2Fsimilar").json()["title"] == "a"
    assert client.get("/v1/items/i1/similar").json()["item_id"] == "i1"
    assert client.get("/v1/items/i1/similar/similar").status_code == 404
    assert client.get("/v1/%69tems/i1").status_code == 200  # what else is encoded means itself


@pytest.mark.parametrize(
    ("raw_path", "path", "seen"),
    [
        (b"/v1/items/a%2Fb", "/v1/items/a/b", "/v1/items/a%2Fb"),
        (b"/v1/items/a%252Fb", "/v1/items/a%2Fb", "/v1/items/a%252Fb"),
        (None, "/v1/items/a%2Fb", "/v1/items/a%252Fb"),  # a server that keeps no raw path
    ],
)
def test_each_segment_is_decoded_by_itself(raw_path: bytes | None, path: str, seen: str) -> None:
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])

    scope: dict[str, Any] = {"type": "http", "path": path}
    if raw_path is not None:
        scope["raw_path"] = raw_path
    asyncio.run(WholeSegments(app)(scope, None, None))  # type: ignore[arg-type]
    assert paths == [seen]
    assert scope["path"] == path  # the server's own log goes on


def test_a_filter_matches_number_and_text_and_quotes_ask_for_the_text(stack: Stack) -> None:
    client = stack.replicas[0]
    for item_id, attributes in {
        "number": {"year": 1995},
        "text": {"year": "1995"},
        "list": {"year": ["1995", "1996"]},
        "float": {"year": 1995.0},
        "truth": {"year": True},
        "word": {"year": "true"},
        "quoted": {"year": '"1995"'},
    }.items():
        body = {"title": item_id, "attributes": attributes}
        assert client.put(f"/v1/items/{item_id}", json=body).status_code == 200
    client.post("/v1/events", json={"user_id": "u", "kind": "click", "item_id": "i1"})

    def found(value: str) -> set[str]:
        params = {"attribute": f"year:{value}"}
        lists = [
            client.get(f"/v1/users/{user}/recommendations", params=params).json()["items"]
            for user in ("u", "nobody")
        ]
        lists.append(client.get("/v1/items/i1/similar", params=params).json()["items"])
        names = [{item["item_id"] for item in items} for items in lists]
        assert names[0] == names[1] == names[2]
        return names[0]

    assert found("1995") == {"number", "float", "text", "list"}
    assert found('"1995"') == {"text", "list"}
    assert found("true") == {"truth", "word"}
    assert found('"true"') == {"word"}
    assert found('""1995""') == {"quoted"}
    assert found("1996") == {"list"}
    typed = {"users": ["u"], "attributes": {"year": "1995"}}
    (exact,) = client.post("/v1/recommendations", json=typed).json()["results"]
    assert {item["item_id"] for item in exact["items"]} == {"text", "list"}
    stack.publish("g2", seed=2)  # the same items as columns of a generation
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    assert found("1995") == {"number", "float", "text", "list"}
    assert found('"1995"') == {"text", "list"}
    twice = client.get("/v1/items/i1/similar?attribute=year:1&attribute=year:2")
    assert twice.status_code == 422
    assert twice.json()["errors"][0]["field"] == "attribute"


def test_a_query_parameter_that_a_route_does_not_know_is_refused_by_name(stack: Stack) -> None:
    client = stack.replicas[0]
    event = {"user_id": "u", "kind": "click", "item_id": "i1"}
    for answer, name, accepted in (
        (client.get("/v1/users/u/recommendations?limit=3"), "limit", "exclude_seen"),
        (client.get("/v1/users/u/recommendations?k=3&Category=x"), "Category", "category"),
        (client.get("/v1/items/i1/similar?offset=1"), "offset", "attribute"),
        (client.get("/v1/users/u/events?k=1"), "k", "limit"),
        (client.get("/v1/users/u?k=1"), "k", "one of vector"),
        (client.get("/v1/policies?k=1"), "k", "no query parameter"),
        (client.get("/v1/trending?offset=1"), "offset", "hours"),
        (client.put("/v1/items/x?version=1", json={"title": "x"}), "version", "no query"),
        (client.post("/v1/events?on_unknown=keep", json=event), "on_unknown", "on_unknown_item"),
        (client.post("/v1/search?k=1", json={"text": "space"}), "k", "no query parameter"),
    ):
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["field"] == name
        assert accepted in error["accepted"]
    assert client.get("/v1/users/u").status_code == 404  # nothing was stored
    assert client.get("/v1/items/x").status_code == 404
    assert client.get("/readyz?probe=1").status_code == 200
