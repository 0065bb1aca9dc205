"""The usual request of a list, which goes past FastAPI, is answered as the route itself would."""

import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy.exc import OperationalError

from infra.bench.list_cost import STEPS, Stopwatch
from serve.lists import ItemList, ListQuery
from serve.problems import REQUEST_ID
from serve.recommend import Recommender
from serve.routes import quick_list
from serve.settings import ServeSettings
from sql.keys import make_key, new_secret
from tests.integration.http.conftest import Stack
from tests.integration.http.test_fused import priors_of, weights, with_priors
from tests.integration.http.test_trending import soon

LISTS_A_MINUTE = 150


@pytest.fixture
def serve_settings() -> ServeSettings:
    return ServeSettings(
        watch_interval_s=0.05, embed_timeout_s=5, user_lists_per_minute=LISTS_A_MINUTE
    )


OF_ONE_ANSWER = {"request_id", "as_of"}


def same(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in OF_ONE_ANSWER}


@pytest.mark.parametrize("query", ["", "k=1", "k=7", "k=100"])
def test_the_short_way_and_the_route_give_the_same_list(stack: Stack, query: str) -> None:
    client = stack.replicas[0]
    event = {"user_id": "reader.1", "kind": "click", "item_id": "i3"}
    assert client.post("/v1/events", json=event).status_code == 200
    path = "/v1/users/reader.1/recommendations"
    quick = client.get(f"{path}?{query}" if query else path)
    # `offset` is no part of the short way, and 0 is what it is without.
    whole = client.get(f"{path}?{query}&offset=0" if query else f"{path}?offset=0")
    assert same(quick.json()) == same(whole.json())
    assert quick.status_code == whole.status_code == 200
    assert quick.headers["content-type"] == whole.headers["content-type"]
    assert quick.json()["request_id"] == quick.headers[REQUEST_ID]


@pytest.mark.parametrize(
    "query", ["k=0", "k=-1", "k=1001", "k=9999", "k=x", "k=5&k=6", "z=1", "k="]
)
def test_what_the_route_refuses_is_refused(stack: Stack, query: str) -> None:
    client = stack.replicas[0]
    answer = client.get(f"/v1/users/reader.1/recommendations?{query}")
    whole = client.get(f"/v1/users/reader.1/recommendations?{query}&offset=0")
    assert answer.status_code == whole.status_code
    assert answer.json().get("errors") == whole.json().get("errors")


def test_the_usual_request_does_go_the_short_way(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = quick_list.list_of

    async def noted(day: Any, key: Any, user_id: str, *more: Any, **named: Any) -> dict[str, Any]:
        asked.append(user_id)
        return await real(day, key, user_id, *more, **named)

    monkeypatch.setattr(quick_list, "list_of", noted)
    client = stack.replicas[0]
    for user_id in ("reader-2", "a%2Fb", "reader-2?k=5&offset=0"):
        name, _, query = user_id.partition("?")
        path = f"/v1/users/{name}/recommendations" + (f"?{query}" if query else "")
        assert client.get(path).status_code == 200
    assert asked == ["reader-2"]


OF_ONE_HEADER = {REQUEST_ID.lower(), "content-length", "retry-after"}


def both(client: TestClient, user: str, **headers: str) -> tuple[Response, Response]:
    path = f"/v1/users/{user}/recommendations"
    quick = client.get(path, headers=headers)
    return quick, client.get(f"{path}?offset=0", headers=headers)


def assert_same(quick: Response, whole: Response) -> None:
    assert quick.status_code == whole.status_code
    assert same(quick.json()) == same(whole.json())
    for answer in (quick, whole):
        assert int(answer.headers["content-length"]) == len(answer.content)
        if answer.status_code == 200:
            assert answer.headers[REQUEST_ID] == answer.json()["request_id"]
    of_quick, of_whole = ({*answer.headers} for answer in (quick, whole))
    assert of_quick == of_whole
    for name in of_quick - OF_ONE_HEADER:
        assert quick.headers[name] == whole.headers[name]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happened_before_both_ways_answer_the_same(
    stack: Stack, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of all kinds, undone, of a text that BERT reads or cannot; items that go and come
    back, policies, an erasure, another generation; users who did nothing."""
    # Activity is read each second: one of the two lists may come before, the other after it.
    monkeypatch.setattr("serve.trending.REFRESH_MS", 0)
    monkeypatch.setattr("serve.trending.ROWS_A_SECOND", 10**9)
    rng = np.random.default_rng(seed)
    at_once = noted_at_once(monkeypatch)
    seen: set[str] = set()
    for step in range(40):
        client, user = stack.replicas[step % 2], f"u{rng.integers(3)}"
        what = rng.choice([*KINDS, "undo", "item", "policy", "erase", "bert", "publish"])
        happen(stack, client, user, str(what), step, rng)
        quick, whole = both(client, user)
        assert_same(quick, whole)
        assert_same(client.get(f"/v1/users/{user}/recommendations"), whole)  # all is at hand now
        answer = quick.json()
        seen |= {answer["basis"], *answer["degraded"], f"policy {answer['policy_seq'] > 0}"}
    assert {"session", "popularity"} <= seen
    assert set(at_once) == {True, False}, "both on the event loop and in a thread"


def noted_at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each list that may be made on the event loop: whether it was."""
    noted: list[bool] = []
    real = Recommender.recommend_at_once

    def made(self: Recommender, user_id: str, query: ListQuery) -> ItemList | None:
        answer = real(self, user_id, query)
        noted.append(answer is not None)
        return answer

    monkeypatch.setattr(Recommender, "recommend_at_once", made)
    return noted


def test_with_priors_the_list_is_made_at_once_when_its_pools_are_ready(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_priors(stack, priors_of(weights(neighbours=1.0, cosine=0.5, activity=0.1)))
    client = stack.replicas[0]
    event = {"user_id": "reader", "kind": "click", "item_id": "i3"}
    assert client.post("/v1/events", json=event).status_code == 200
    at_once = noted_at_once(monkeypatch)

    def is_made_at_once() -> bool:
        time.sleep(0.2)  # a user has so many lists a minute
        quick, whole = (answer.json() for answer in both(client, "reader"))
        ids = [[item["item_id"] for item in answer["items"]] for answer in (quick, whole)]
        assert ids[0] == ids[1]
        assert quick["user_seq"] == whole["user_seq"] == 1
        return at_once[-1]

    soon(is_made_at_once)  # the first may come before the pools
    # Now there is something to read and to make first, whoever does it.
    assert client.put("/v1/items/new", json={"title": "a new one"}).status_code == 200
    assert client.delete("/v1/items/i9").status_code == 200
    quick, whole = (answer.json() for answer in both(client, "reader"))
    assert quick["catalog_seq"] == whole["catalog_seq"]
    soon(is_made_at_once)
    watch = Stopwatch()

    def is_measured() -> bool:
        time.sleep(0.2)
        assert client.post("/v1/events", json=event).status_code == 200
        with watch.on_all():
            client.get("/v1/users/reader/recommendations")
        return at_once[-1]

    soon(is_measured)
    assert set(watch.took_ms) >= {step for step, _, _ in STEPS}, "what `list_cost` measures"


KINDS = ("view", "click", "rating", "favourite", "purchase", "dislike", "hide", "search")


def happen(
    stack: Stack, client: TestClient, user: str, what: str, step: int, rng: np.random.Generator
) -> None:
    item = f"i{rng.integers(40)}"
    if what in KINDS or what == "undo":
        event: dict[str, Any] = {"user_id": user, "kind": what, "event_id": f"e{step}"}
        if what == "undo":
            event["undoes"] = f"e{rng.integers(step + 1)}"
        elif what == "search":
            event["text"] = f"garden chess {step}"
        else:
            event["item_id"] = item
        if what == "rating":
            event["value"] = 4
        client.post("/v1/events", json=event)  # some are refused: an undo of nothing
    elif what == "item" and step % 2:
        client.delete(f"/v1/items/{item}")
    elif what == "item":
        client.put(f"/v1/items/{item}", json={"title": f"rose soup {step}", "category": "rose"})
    elif what == "policy":
        boost = {"kind": "boost", "category": "rose", "weight": 0.3}
        pin = {"kind": "pin", "item_id": item, "position": 2}
        client.put(f"/v1/policies/p{step % 2}", json=boost if step % 3 else pin)
    elif what == "erase":
        client.delete(f"/v1/users/{user}")
    elif what == "bert":
        stack.bert_is_there = not stack.bert_is_there
    elif what == "publish" and not stack.deleted:
        stack.publish(f"g-{step}", seed=step)
        stack.flip(f"g-{step}")
        stack.wait_until_loaded(f"g-{step}")


def test_without_the_database_both_ways_answer_the_same(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stack.replicas[0]
    event = {"user_id": "held", "kind": "click", "item_id": "i3"}
    assert client.post("/v1/events", json=event).status_code == 200
    assert_same(*both(client, "held"))

    def gone(*_: object, **__: object) -> None:
        raise OperationalError("", {}, Exception("it is gone"))

    with monkeypatch.context() as patched:
        patched.setattr("sqlalchemy.Engine.raw_connection", gone)
        patched.setattr("sqlalchemy.Engine.connect", gone)
        quick, whole = both(client, "held")
        nobodys, nobodys_whole = both(client, "nobody-holds-me")
    assert_same(quick, whole)
    assert quick.json()["degraded"] == ["database_gone"]
    assert_same(nobodys, nobodys_whole)
    assert nobodys.status_code == 503


def test_keys_are_asked_for_on_both_ways(stack: Stack) -> None:
    client = stack.replicas[0]
    secrets = {scope: new_secret() for scope in ("recommend:read", "events:write")}
    for scope, secret in secrets.items():
        limits = {"requests_per_minute": 1_000, "at_ms": 1}
        make_key(stack.engine, secret, name=scope.replace(":", "-"), scopes=(scope,), **limits)
    client.app.state.day.keys.look()  # type: ignore[attr-defined]
    asked = (
        (200, {"Authorization": f"Bearer {secrets['recommend:read']}"}),
        (403, {"Authorization": f"Bearer {secrets['events:write']}"}),
        (401, {"Authorization": "Bearer nobodys"}),
        (401, {}),
    )
    for status, headers in asked:
        quick, whole = both(client, "reader", **headers)
        assert_same(quick, whole)
        assert quick.status_code == status


def test_a_user_who_asks_too_much_is_told_so_on_both_ways(stack: Stack) -> None:
    client = stack.replicas[0]
    for _ in range(LISTS_A_MINUTE // 2):
        assert client.get("/v1/users/eager/recommendations").status_code == 200
    quick, whole = both(client, "eager")
    while quick.status_code == 200:
        quick, whole = both(client, "eager")
    assert quick.json()["title"] == "too many lists of one user"
    assert_same(quick, whole)
