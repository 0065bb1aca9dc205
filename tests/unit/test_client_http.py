"""What the client puts on the wire, seen by a real HTTP server on the loopback."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from infra.client import Moonlark, NotFound, RetryPolicy, UnexpectedAnswer, Unreachable

FAST = RetryPolicy(first_wait_s=0.001, longest_wait_s=0.01)
ITEM = {"item_id": "i1", "score": 1.0, "title": "One", "category": None}
RECOMMENDATION = {
    "user_id": "u1",
    "items": [ITEM],
    "basis": "session",
    "generation": "g1",
    "user_seq": 3,
    "catalog_seq": 4,
    "as_of": "2026-01-01T00:00:00Z",
    "request_id": "r",
    "degraded": [],
}
CHANGE = {"item_id": "i1", "outcome": "created", "catalog_seq": 1, "version": None}
SEARCH = {
    "items": [ITEM],
    "personalised": False,
    "generation": "g1",
    "user_seq": 0,
    "catalog_seq": 1,
    "request_id": "r",
    "degraded": [],
}


class Api(ThreadingHTTPServer):
    """Answers from `answers[(method, path)]`; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.seen: list[tuple[str, str, list[tuple[str, str]], Any, dict[str, str]]] = []
        self.resets_left = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        query = parse_qsl(url.query)
        body = json.loads(raw) if raw else None
        self.server.seen.append((self.command, url.path, query, body, dict(self.headers)))
        if self.server.resets_left:
            self.server.resets_left -= 1
            linger = struct.pack("ii", 1, 0)  # close with RST: as when a replica is killed
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        answers = self.server.answers.get((self.command, url.path))
        status, document = (200, answers.pop(0)) if answers else (404, {"title": "no such item"})
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("moonlark-request-id", "r-9")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def moonlark(api: Api) -> Iterator[Moonlark]:
    with Moonlark(api.url, api_key="secret", retry=FAST) as client:
        yield client


RECEIPT = {
    "erasure_id": "e1",
    "erased_at": "2026-05-01T00:00:00Z",
    "completed_at": None,
    "erased": {"events": 2},
    "to_rewrite": [],
    "cannot_rewrite": [],
    "generations": [],
    "request_id": "r",
}


def test_recommend_sends_every_filter_as_the_api_reads_it(api: Api, moonlark: Moonlark) -> None:
    api.answers["GET", "/v1/users/u1/recommendations"] = [RECOMMENDATION]
    answer = moonlark.recommend(
        "u1",
        k=5,
        category="Comedy & more",
        attributes={"genres": "a:b", "year": 1995, "new": True},
        exclude=["i 1", "i&2"],
        exclude_seen=False,
        offset=10,
        as_of=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    assert (answer.generation, answer.user_seq, answer.items[0].title) == ("g1", 3, "One")
    _, _, query, _, headers = api.seen[0]
    assert query == [
        ("k", "5"),
        ("offset", "10"),
        ("exclude_seen", "false"),
        ("category", "Comedy & more"),
        ("attribute", "genres:a:b"),
        ("attribute", "year:1995"),
        ("attribute", "new:true"),
        ("exclude", "i 1"),
        ("exclude", "i&2"),
        ("as_of", "2026-01-02T03:04:05+00:00"),
    ]
    assert headers["Authorization"] == "Bearer secret"


def test_the_key_is_shown_nowhere(moonlark: Moonlark) -> None:
    assert "secret" not in repr(moonlark)


@pytest.mark.parametrize(
    "api_key", ["secret\n", "se cret", "secr\u00e9t", "\x00secret", "", "x" * 201]
)
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(api_key: str) -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        Moonlark("http://127.0.0.1:9", api_key=api_key)
    assert not api_key or api_key not in str(caught.value)


@pytest.mark.parametrize("url", ["http://u:secret@127.0.0.1:9", "ftp://u:secret@127.0.0.1"])
def test_a_password_in_the_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Moonlark(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("item_id", "segment"),
    [("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ü ?#%", "%C3%BC%20%3F%23%25"), ("1.5", "1.5")],
)
def test_an_id_stays_one_segment_of_the_path(
    api: Api, moonlark: Moonlark, item_id: str, segment: str
) -> None:
    with pytest.raises(NotFound):
        moonlark.item(item_id)
    assert api.seen[0][1] == f"/v1/items/{segment}"


def test_a_reset_connection_is_tried_again_with_the_same_event_id(
    api: Api, moonlark: Moonlark
) -> None:
    api.resets_left = 2
    stored = [{"event_id": "e", "user_id": "u1", "user_seq": 1, "duplicate": True}]
    api.answers["POST", "/v1/events"] = [{"events": stored, "request_id": "r"}]
    event = {"user_id": "u1", "kind": "view", "item_id": "i1", "value": None}
    answer = moonlark.post_events([event], keep_unknown_items=True)
    assert answer.events[0].duplicate
    bodies = [body for _, _, _, body, _ in api.seen]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert "value" not in bodies[0]["events"][0]
    assert api.seen[0][2] == [("on_unknown_item", "keep")]


def test_user_events_walks_over_all_pages(api: Api, moonlark: Moonlark) -> None:
    pages = [
        {"user_id": "u1", "events": [{"user_seq": 1}, {"user_seq": 2}], "next_after": 2},
        {"user_id": "u1", "events": [{"user_seq": 3}], "next_after": None},
    ]
    api.answers["GET", "/v1/users/u1/events"] = pages
    assert [event["user_seq"] for event in moonlark.user_events("u1")] == [1, 2, 3]
    assert [dict(query)["after"] for _, _, query, _, _ in api.seen] == ["0", "2"]


def test_a_page_that_does_not_move_on_ends_the_walk(api: Api, moonlark: Moonlark) -> None:
    page = {"user_id": "u1", "events": [], "next_after": 0}
    api.answers["GET", "/v1/users/u1/events"] = [page]
    with pytest.raises(Exception, match="next_after 0 is not above 0"):
        list(moonlark.user_events("u1"))


def test_the_other_nouns_go_where_the_api_has_them(api: Api, moonlark: Moonlark) -> None:
    version = datetime(2026, 5, 1, tzinfo=UTC)
    api.answers |= {
        ("PUT", "/v1/items/i1"): [CHANGE],
        ("PUT", "/v1/items"): [{"items": [CHANGE], "request_id": "r"}],
        ("DELETE", "/v1/items/i1"): [{**CHANGE, "outcome": "deleted"}],
        ("POST", "/v1/search"): [SEARCH],
        ("POST", "/v1/recommendations"): [{"results": [RECOMMENDATION], "request_id": "r"}],
        ("DELETE", "/v1/users/u1"): [RECEIPT],
        ("GET", "/v1/erasures/e1"): [{**RECEIPT, "completed_at": "2026-05-02T00:00:00Z"}],
        ("GET", "/readyz"): [{}],
    }
    moonlark.put_item("i1", {"title": "One", "category": None, "published_at": version})
    moonlark.put_items([{"item_id": "i1", "title": "One"}])
    assert moonlark.delete_item("i1", version=7).outcome == "deleted"
    assert not moonlark.search("noir", user_id="u1").personalised
    assert moonlark.recommend_many(["u1"], k=3).results[0].user_id == "u1"
    assert moonlark.erase_user("u1").erased == {"events": 2}
    assert moonlark.erasure("e1").completed_at is not None
    assert moonlark.ready()
    sent = {(method, path): (query, body) for method, path, query, body, _ in api.seen}
    put_body = {"title": "One", "published_at": "2026-05-01T00:00:00+00:00"}
    assert sent["PUT", "/v1/items/i1"] == ([], put_body)
    assert sent["DELETE", "/v1/items/i1"] == ([("version", "7")], None)
    assert sent["POST", "/v1/search"][1]["user_id"] == "u1"
    assert sent["POST", "/v1/recommendations"][1]["users"] == ["u1"]


def test_events_of_nobody_are_sent_without_a_user_and_their_one_list_is_explained(
    api: Api, moonlark: Moonlark
) -> None:
    near = {"event_id": "a", "user_seq": 1, "kind": "search", "text": "noir", "cosine": 0.5}
    why = {"parts": {"cosine": 1.0}, "source": "base", "nearest_events": [near]}
    one = RECOMMENDATION | {"user_id": None, "items": [ITEM | {"explanation": why}]}
    answer = {"results": [one], "request_id": "r"}
    api.answers["POST", "/v1/recommendations"] = [answer, {"results": [], "request_id": "r"}]
    events = [{"kind": "search", "text": "noir", "surface": None}]
    shown = moonlark.recommend_for_events(events, k=3, explain=True, keep_unknown_items=True)
    assert shown.user_id is None
    assert shown.items[0].explanation is not None
    assert shown.items[0].explanation.nearest_events[0].text == "noir"
    _, _, query, body, _ = api.seen[0]
    assert query == [("on_unknown_item", "keep")]
    assert body["events"] == [{"kind": "search", "text": "noir"}]
    assert (body["k"], body["explain"]) == (3, True)
    assert "users" not in body
    with pytest.raises(UnexpectedAnswer, match="0 lists for one"):
        moonlark.recommend_for_events(events)
    for bad in ([], events * 201):
        with pytest.raises(ValueError, match="1 to 200"):
            moonlark.recommend_for_events(bad)


def test_ready_is_false_and_calls_fail_where_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Moonlark(url, timeout_s=0.2, retry=FAST) as nobody:
            assert not nobody.ready()
            with pytest.raises(Unreachable, match="Connect"):
                nobody.status()


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    api.answers["GET", "/readyz"] = [{}]
    with Moonlark(api.url) as client:
        assert client.ready()
