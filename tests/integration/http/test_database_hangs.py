"""Promise 9: a database that hangs holds nobody up. On a real Postgres, which is frozen."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

import serve.day as serve_day
from infra.drills.local import LocalStore, local_store, replica
from infra.stack.postgres import PostgresServer, create_database
from sql.engine import open_engine
from sql.pulse import Pulse

LIST = "/v1/users/u/recommendations"
SOON_S = 8.0
"""Two seconds of patience and what a busy machine adds; unwatched it takes for ever."""


class Checked(Exception):
    pass


class QuickPulse(Pulse):
    def __init__(self, engine: Any) -> None:
        super().__init__(engine, interval_s=0.2, patience_s=2.0)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    made.start()
    try:
        yield made
    finally:
        made.thaw()
        made.stop()


@pytest.fixture
def store(server: PostgresServer) -> Iterator[LocalStore]:
    create_database(server.url(), "hangs")
    with local_store(items=60, seed=1, database_url=server.url("hangs")) as made:
        made.publish("g1", 1)
        yield made


def click(client: TestClient, event_id: str) -> int:
    body = {"user_id": "u", "kind": "click", "item_id": "i1", "event_id": event_id}
    return client.post("/v1/events", json=body).status_code


@pytest.mark.timeout(300)
def test_a_database_that_hangs_counts_as_gone_and_comes_back(
    server: PostgresServer, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_day, "Pulse", QuickPulse)
    with replica(store) as client:
        assert click(client, "before") == 200
        before = client.get(LIST).json()
        assert before["degraded"] == []
        server.freeze()
        answers: dict[str, tuple[float, Any]] = {}

        def ask(name: str, call: Any) -> None:
            started_s = time.monotonic()
            answer = call()
            answers[name] = (time.monotonic() - started_s, answer)

        # They find connections that look sound, and wait on them.
        waiting = [
            threading.Thread(target=ask, args=("list", lambda: client.get(LIST))),
            threading.Thread(target=ask, args=("post", lambda: click(client, "during"))),
        ]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(60)
        assert answers.keys() == {"list", "post"}
        assert answers["list"][1].json()["degraded"] == ["database_gone"]
        assert answers["list"][1].json()["items"] == before["items"]
        assert answers["post"][1] == 503
        assert max(took_s for took_s, _ in answers.values()) < SOON_S
        started_s = time.monotonic()  # and now nobody waits at all
        assert client.get(LIST).json()["degraded"] == ["database_gone"]
        assert click(client, "refused") == 503
        assert time.monotonic() - started_s < 1.5
        server.thaw()
        deadline_s = time.monotonic() + 60
        while click(client, "during") != 200:  # the same again: stored once, whatever became of it
            assert time.monotonic() < deadline_s, "it never came back"
            time.sleep(0.1)
        after = client.get(LIST).json()
        assert (after["degraded"], after["user_seq"]) == ([], 2)


@pytest.mark.timeout(300)
def test_a_lock_that_somebody_holds_holds_no_list_up(
    server: PostgresServer, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_STATEMENT_TIMEOUT_S", "1")
    with replica(store) as client:
        assert click(client, "before") == 200
        before = client.get(LIST).json()
        with psycopg.connect(server.url("hangs").replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            started_s = time.monotonic()
            answer = client.get(LIST).json()
            assert time.monotonic() - started_s < SOON_S
            assert answer["degraded"] == ["database_gone"]
            assert answer["items"] == before["items"]
            assert click(client, "during") == 503
        assert click(client, "during") == 200
        assert client.get(LIST).json()["degraded"] == []


def test_a_connection_that_is_being_checked_is_cut_too(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine asks a new connection for its settings; that may be where the server stops."""
    create_database(server.url(), "checked")
    engine = open_engine(server.url("checked"))
    pulse = QuickPulse(engine)
    pulse.start()

    def stops(*_: object) -> None:
        assert pulse._open, "it is known before it is checked"
        raise Checked

    monkeypatch.setattr("sql.engine.check_postgres", stops)
    with pytest.raises(Checked), engine.connect():
        pass
    pulse.stop()
    engine.dispose()
