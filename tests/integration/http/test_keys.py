"""Who may ask for what: every route with every kind of wrong key; wrong accepts are 0.

The matrix is made from the routes of the app, so a new route is covered by itself.
"""

import asyncio
import itertools
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from starlette.types import Message

from serve.day import Day
from serve.gateway import build_api
from serve.keyring import NoKeys
from serve.online_encoder import EmbedTexts
from serve.rates import Rates
from serve.scopes import NEEDED, UnguardedRoute, operations, routes_of, scope_needed
from serve.settings import ServeSettings
from sql.engine import read_snapshot
from sql.keys import SCOPES, digest_of, list_keys, make_key, new_secret, revoke_key
from tests.integration.http.conftest import Stack

EVENT = {"user_id": "u", "kind": "click", "item_id": "i1"}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def serve_settings() -> ServeSettings:
    # No thread looks during a test: `look` is called by hand.
    return ServeSettings(
        watch_interval_s=0.05, embed_timeout_s=5, keys_interval_s=4, user_lists_per_minute=100
    )


def day_of(client: TestClient) -> Day:
    day: Day = client.app.state.day  # type: ignore[attr-defined]
    return day


def api_of(stack: Stack) -> FastAPI:
    api: FastAPI = stack.replicas[0].app  # type: ignore[assignment]
    return api


def made(stack: Stack, name: str, *scopes: str, rate: int | None = None) -> str:
    secret = new_secret()
    make_key(stack.engine, secret, name=name, scopes=scopes, requests_per_minute=rate, at_ms=1)
    for replica in stack.replicas:
        day_of(replica).keys.look()
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def guarded(api: FastAPI) -> Iterator[tuple[str, str, str]]:
    """(method, url, scope) of every route that needs one."""
    for route in routes_of(api):
        needed = scope_needed(route)
        if needed is not None:
            url = re.sub("{[a-z_]+}", "i1", route.path)
            for operation in operations(route):
                yield operation.split()[0], url, needed


def ask(client: TestClient, method: str, url: str, headers: dict[str, Any]) -> Response:
    # A body that no route takes: 422 is as far as a wrong accept could come, and changes nothing.
    return client.request(method, url, headers=headers, json={"no": "field"})


def altered(secret: str) -> list[dict[str, str]]:
    return [
        *(bearer(other) for other in (secret[:-1], secret + "x", secret.swapcase(), "ml_", "")),
        bearer(secret[:-1] + ("a" if secret[-1] != "a" else "b")),
        bearer(digest_of(secret.encode())),
        bearer("x" * 8_000),
        bearer(f"{secret} {secret}"),
        {"authorization": secret},
        {"authorization": f"Basic {secret}"},
        {"x-api-key": secret},
        {"cookie": f"authorization=Bearer {secret}"},
    ]


def test_every_route_with_every_wrong_key_wrong_accepts_0(stack: Stack) -> None:
    secrets = {scope: made(stack, scope.replace(":", "-"), scope) for scope in SCOPES}
    gone = made(stack, "gone", *SCOPES)
    revoke_key(stack.engine, "gone", at_ms=2)
    client = stack.replicas[1]
    day_of(client).keys.look()
    wrong_accepts, asked = [], 0
    for method, url, needed in guarded(api_of(stack)):
        wrong: list[tuple[int, dict[str, Any]]] = [(401, {}), (401, bearer(gone))]
        wrong += [(401, bearer(new_secret())), (401, {"authorization": b"Bearer \xff"})]
        wrong += [(401, headers) for headers in altered(secrets[needed])]
        others = [scope for scope in SCOPES if scope not in (needed, "admin")]
        wrong += [(403, bearer(secrets[scope])) for scope in others]
        for status, headers in wrong:
            asked += 1
            answer = ask(client, method, url, headers)
            if answer.status_code != status:
                wrong_accepts.append((method, url, headers, answer.status_code))
                continue
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert answer.headers["moonlark-request-id"]
            assert not any(secret in answer.text for secret in (*secrets.values(), gone))
        for scope in {needed, "admin"}:  # the test could not fail if nothing were let in
            assert ask(client, method, url, bearer(secrets[scope])).status_code not in (401, 403)
    assert wrong_accepts == []
    assert asked > 100


def test_two_authorization_headers_are_no_key(stack: Stack) -> None:
    secret = made(stack, "a", "admin")
    twice = [("authorization", f"Bearer {secret}")] * 2
    assert stack.replicas[0].get("/v1/status", headers=twice).status_code == 401
    one = stack.replicas[0].get("/v1/status", headers={"authorization": f"bEARER   {secret}"})
    assert one.status_code == 200


def test_open_routes_hold_no_data(stack: Stack) -> None:
    made(stack, "a", "admin")
    said = {"/healthz": {"status": "alive"}, "/readyz": {"status": "ready"}}
    for route in routes_of(api_of(stack)):
        if scope_needed(route) is None:
            answer = stack.replicas[0].get(route.path)
            assert answer.status_code == 200
            assert "g1" not in answer.text or route.path.startswith("/docs/files/")  # minified
            assert answer.json() == said[route.path] if route.path in said else True


def test_without_keys_everything_is_answered_on_the_loopback_and_it_is_said(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    status = stack.replicas[0].get("/v1/status").json()
    assert status["keys"] == "none"
    day_of(stack.replicas[0]).keys.look()
    with caplog.at_level(logging.WARNING):
        secret = made(stack, "first", "admin")
    assert "the first key was made" in caplog.text
    for replica in stack.replicas:
        assert replica.get("/v1/status").status_code == 401
        assert replica.get("/v1/status", headers=bearer(secret)).json()["keys"] == "required"
    revoke_key(stack.engine, "first", at_ms=2)
    for replica in stack.replicas:
        day_of(replica).keys.look()
        assert replica.get("/v1/status").status_code == 401, "the last key gone opens nothing"


@pytest.mark.parametrize("host", [None, "0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_beyond_the_loopback_nothing_is_answered_without_keys(
    stack: Stack, tmp_path: Path, host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOONLARK_HTTP_HOST")
    client = another(stack, tmp_path, ServeSettings(http_host=host))
    with client:
        assert client.get("/v1/status").status_code == 401
        assert client.get("/healthz").status_code == 200
        with pytest.raises(NoKeys, match="moonlark keys make NAME --scope admin"):
            day_of(client).keys.check_exposure()
        made(stack, "a", "admin")
        day_of(client).keys.look()
        day_of(client).keys.check_exposure()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_always_means_also_on_the_loopback(stack: Stack, tmp_path: Path, host: str) -> None:
    auto, always = (
        another(stack, tmp_path, ServeSettings(http_host=host, require_keys=mode))
        for mode in ("auto", "always")
    )
    with auto, always:
        assert auto.get("/v1/status").status_code == 200
        assert always.get("/v1/status").status_code == 401
        for client in (auto, always):
            day_of(client).keys.check_exposure()


def another(
    stack: Stack, tmp_path: Path, settings: ServeSettings, embed: EmbedTexts | None = None
) -> TestClient:
    from sql.settings import StoreSettings

    url = stack.engine.url.render_as_string(hide_password=False)
    store = StoreSettings(database_url=url, artifact_root=tmp_path)
    api = build_api(settings, lambda: Day.start(store, settings, embed or stack.embed))
    return TestClient(api, base_url="http://127.0.0.1")


def test_a_key_that_is_revoked_is_refused_by_every_replica_within_5_seconds(stack: Stack) -> None:
    secret = made(stack, "a", "admin")
    clock = Clock()
    for replica in stack.replicas:
        day_of(replica).keys._clock = clock
        day_of(replica).keys.look()
    revoke_key(stack.engine, "a", at_ms=2)
    for replica in stack.replicas:
        assert replica.get("/v1/status", headers=bearer(secret)).status_code == 200
    clock.now_s += 5.001  # the thread did not look in between: as in a process that was stopped
    for replica in stack.replicas:
        assert replica.get("/v1/status", headers=bearer(secret)).status_code == 401


def test_the_thread_looks_by_itself(stack: Stack, tmp_path: Path) -> None:
    settings = ServeSettings(http_host="127.0.0.1", keys_interval_s=0.02)
    with another(stack, tmp_path, settings) as client:
        secret = new_secret()
        assert client.get("/v1/status").status_code == 200
        make_key(stack.engine, secret, name="a", scopes=["admin"], at_ms=1)
        wait_for(client, {}, 401)
        assert client.get("/v1/status", headers=bearer(secret)).status_code == 200
        revoke_key(stack.engine, "a", at_ms=2)
        wait_for(client, bearer(secret), 401)


def wait_for(client: TestClient, headers: dict[str, str], status: int) -> None:
    deadline_s = time.monotonic() + 20
    while client.get("/v1/status", headers=headers).status_code != status:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_while_the_database_is_away_known_keys_go_on_until_the_bound(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sql.errors import StoreUnavailable

    secret = made(stack, "a", "items:write")
    keys, clock = day_of(stack.replicas[0]).keys, Clock()
    keys._clock = clock
    keys.look()

    def away(*_: Any) -> None:
        raise StoreUnavailable("sqlite:///x", "gone")

    monkeypatch.setattr("serve.keyring.read_snapshot", away)
    for later_s, known, unknown in ((6, 422, 401), (293, 422, 401), (2, 503, 503)):
        clock.now_s += later_s
        answers = [
            ask(stack.replicas[0], "PUT", "/v1/items/i1", bearer(key))
            for key in (secret, new_secret())
        ]
        assert [answer.status_code for answer in answers] == [known, unknown], later_s
    assert int(answers[0].headers["retry-after"]) > 0
    monkeypatch.undo()
    keys.look()
    assert ask(stack.replicas[0], "PUT", "/v1/items/i1", bearer(secret)).status_code == 422


def test_a_stranger_costs_no_memory_and_reaches_no_parser(stack: Stack) -> None:
    made(stack, "a", "admin")
    api = stack.replicas[0].app
    asked, answered = [], []

    async def receive() -> Message:
        asked.append(None)
        return {"type": "http.request", "body": b"[" * 100_000, "more_body": True}

    async def send(message: Message) -> None:
        answered.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/events",
        "raw_path": b"/v1/events",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(api(scope, receive, send))
    assert answered[0]["status"] == 401
    assert not asked, "nothing of the body was read"


def test_what_users_wrote_is_shown_to_admins_alone(stack: Stack) -> None:
    reader, admin = made(stack, "reader", "recommend:read"), made(stack, "boss", "admin")
    events = [
        {"user_id": "u", "kind": "search", "text": "canary soup", "event_id": "s"},
        {"user_id": "u", "kind": "click", "item_id": "i1", "event_id": "c"},
    ]
    client = stack.replicas[0]
    posted = client.post("/v1/events", json={"events": events}, headers=bearer(admin))
    assert posted.status_code == 200, posted.text
    asked = {"k": 5, "explain": True}
    for secret, is_shown in ((reader, False), (admin, True)):
        one = client.get("/v1/users/u/recommendations", params=asked, headers=bearer(secret))
        body = {"users": ["u"], **asked}
        many = client.post("/v1/recommendations", json=body, headers=bearer(secret))
        for answer in (one, many):
            assert answer.status_code == 200, answer.text
            assert ("canary" in answer.text) == is_shown
            assert '"event_id":"s"' in answer.text


def test_a_key_has_a_rate_and_a_user_has_one(stack: Stack) -> None:
    slow, fast = made(stack, "slow", "admin", rate=5), made(stack, "fast", "admin")
    client = stack.replicas[0]
    answers = [client.get("/v1/status", headers=bearer(slow)) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
    assert "'slow'" in answers[-1].json()["detail"]
    assert client.get("/v1/status", headers=bearer(fast)).status_code == 200
    # Unknown items are refused in the store, which is behind the rate.
    many = {"events": [{**EVENT, "item_id": "none"}] * 500}
    posts = [client.post("/v1/events", json=many, headers=bearer(fast)) for _ in range(7)]
    assert [post.status_code for post in posts] == [422] * 6 + [429]
    assert int(posts[-1].headers["retry-after"]) > 0
    assert posts[-1].json()["errors"][0]["value"] == "u"
    other = client.post("/v1/events", json={**EVENT, "user_id": "v"}, headers=bearer(fast))
    assert other.status_code == 200


def test_lists_have_a_rate_a_user_and_a_post_for_many_counts_as_many(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, client = made(stack, "shop", "recommend:read", rate=250), stack.replicas[0]
    # A rate gives back one in 0.6 s, and the first list of a replica may take longer.
    day: Day = client.app.state.day  # type: ignore[attr-defined]
    monkeypatch.setattr(day.allowances, "_lists", Rates(10, clock=lambda: 0.0))

    def ask(*users: str) -> Response:
        return client.post("/v1/recommendations", json={"users": users}, headers=bearer(secret))

    def one(user: str) -> Response:
        return client.get(f"/v1/users/{user}/recommendations", headers=bearer(secret))

    assert one("u").status_code == 200
    hundred = ["u"] * 99
    assert [ask(*hundred).status_code, ask(*hundred).status_code] == [200, 429]
    assert one("v").status_code == 200, "the user's rate is used up, the key's is not"
    for answer in (ask("v", "u"), one("u")):
        assert answer.status_code == 429
        assert answer.json()["errors"][0]["value"] == "u"
        assert int(answer.headers["retry-after"]) > 0
    searched = {"text": "stars", "user_id": "u"}
    answer = client.post("/v1/search", json=searched, headers=bearer(secret))
    assert answer.status_code == 429
    others = [f"w{number}" for number in range(100)]
    assert ask(*others).status_code == 200
    answer = ask(*others)
    assert answer.status_code == 429
    assert "250 requests a minute" in answer.json()["detail"]
    narrow = made(stack, "narrow", "recommend:read", rate=5)
    answer = client.post("/v1/recommendations", json={"users": ["a"] * 6}, headers=bearer(narrow))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["accepted"] == "at most 5 of them with the key 'narrow'"


@pytest.mark.parametrize(
    "host",
    [
        *("shop.example", "shop.example:80", "127.0.0.1.example", "u@example", "[", ""),
        *("evil.example@127.0.0.1", "127.0.0.1/evil.example", "127.0.0.1?x", "[::1].evil"),
        *("127.0.0.1:x", "127.0.0.1, evil.example", "127.0.0.1\t"),
    ],
)
def test_without_keys_a_page_whose_name_leads_here_is_refused(stack: Stack, host: str) -> None:
    client = stack.replicas[0]
    answer = client.get("/v1/status", headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["errors"][0]["field"] == "host"
    for name in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert client.get("/v1/status", headers={"host": name}).status_code == 200
    secret = made(stack, "first", "admin")
    answer = client.get("/v1/status", headers={"host": host, **bearer(secret)})
    assert answer.status_code == 200, "with keys it is the key that counts"


def test_no_answer_leads_to_the_host_that_was_asked_for(stack: Stack) -> None:
    secret = made(stack, "a", "admin")
    headers = {"host": "elsewhere.example", **bearer(secret)}
    for path in ("/v1/status/", "/v1/trending/", "/docs/", "/v1/users/u/recommendations/"):
        answer = stack.replicas[0].get(path, headers=headers, follow_redirects=False)
        assert answer.status_code == 404
        assert "location" not in answer.headers


def test_the_limit_of_a_day_says_when_the_day_is_over(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.event_rules.MAX_EVENTS_PER_USER_DAY", 1)
    client = stack.replicas[0]
    assert client.post("/v1/events", json=EVENT).status_code == 200
    over = client.post("/v1/events", json=EVENT)
    assert over.status_code == 429
    left_s = 86_400 - time.time() % 86_400
    assert abs(int(over.headers["retry-after"]) - left_s) % 86_400 < 60


def test_more_requests_at_once_than_allowed_are_503_and_come_back(
    stack: Stack, tmp_path: Path
) -> None:
    settings = ServeSettings(http_host="127.0.0.1", max_concurrent_requests=1)
    ready, go_on = threading.Event(), threading.Event()

    async def embed(texts: list[str]) -> Any:
        ready.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return await stack.embed(texts)

    with another(stack, tmp_path, settings, embed) as client:
        search = {"text": "space"}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/v1/search", json=search)
            assert ready.wait(20)
            refused = client.get("/v1/status")
            open_one = client.get("/healthz")
            go_on.set()
            assert first.result(20).status_code == 200
        assert (refused.status_code, open_one.status_code) == (503, 200)
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/status").status_code == 200


def test_a_route_without_an_entry_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in NEEDED:
        monkeypatch.setattr(
            "serve.scopes.NEEDED", {name: NEEDED[name] for name in NEEDED if name != operation}
        )
        with pytest.raises(UnguardedRoute, match=operation.split("{")[0]):
            build_api(ServeSettings(), None)  # type: ignore[arg-type]


def test_the_table_names_no_route_that_is_not_there(stack: Stack) -> None:
    there = itertools.chain.from_iterable(map(operations, routes_of(api_of(stack))))
    assert set(there) == set(NEEDED)
    assert {scope for scope in NEEDED.values() if scope} <= set(SCOPES)


def test_openapi_says_which_scope_each_route_needs(stack: Stack) -> None:
    document = stack.replicas[0].get("/openapi.json").json()
    said = {
        f"{method.upper()} {path}": operation.get("security", [{"key": [None]}])[0]["key"][0]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert said == {name: NEEDED[name] for name in said}
    assert len(said) == len(NEEDED) - 7  # the pages about the API are not in it
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_the_secret_is_nowhere_in_the_database(stack: Stack, tmp_path: Path) -> None:
    secret = made(stack, "a", "admin")
    with read_snapshot(stack.engine) as conn:
        (key,) = list_keys(conn)
    assert key.key_sha256 == digest_of(secret.encode())
    assert key.key_sha256 not in repr(key)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in json.dumps(stack.replicas[0].get("/openapi.json").json())
