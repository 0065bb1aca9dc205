"""Promise 2 where Postgres dies with -9 in the middle of commits, and comes back."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from infra.stack.postgres import PostgresServer, create_database
from sql.engine import migrate, open_engine, read_snapshot
from sql.errors import StoreBusy, StoreUnavailable
from sql.events import EventKind, NewEvent, append, find_user, read_tail
from tests.contract.store_builder import put

KILLS = 2
WRITERS = 3
MAX_EVENTS = 5_000
"""Of a writer; it ends when the last kill is over."""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    made.start()
    yield made
    made.stop()


@pytest.mark.timeout(180)
def test_what_was_acknowledged_is_there_once_and_the_same_engine_goes_on(
    server: PostgresServer,
) -> None:
    create_database(server.url(), "moonlark")
    engine = open_engine(server.url("moonlark"))
    migrate(engine)
    put(engine, "i1")
    acked: dict[str, list[tuple[str, int]]] = {f"u{n}": [] for n in range(WRITERS)}
    failed: list[StoreUnavailable] = []
    over = threading.Event()
    written = threading.Condition()

    def write(user_id: str) -> None:
        for number in range(MAX_EVENTS):
            event = NewEvent(user_id, f"e{number}", EventKind.CLICK, "i1")
            while True:
                try:
                    ((stored,),) = append(engine, [[event]], received_at_ms=1)
                except StoreUnavailable as error:  # the client tries again with the same event_id
                    failed.append(error)
                    over.wait(0.05)
                    continue
                break
            acked[user_id].append((stored.event_id, stored.user_seq))
            with written:
                written.notify_all()
            if over.is_set():
                return

    writers = [threading.Thread(target=write, args=(user_id,)) for user_id in acked]
    for writer in writers:
        writer.start()
    for _ in range(KILLS):
        with written:
            assert written.wait_for(lambda: all(acked.values()), timeout=30)
        server.kill()
        before = {user_id: len(events) for user_id, events in acked.items()}
        server.serve()
        with written:
            assert written.wait_for(
                lambda before=before: all(len(acked[u]) > n + 5 for u, n in before.items()), 30
            )
    over.set()
    for writer in writers:
        writer.join(timeout=30)
    assert failed
    assert not any(isinstance(error, StoreBusy) for error in failed)  # gone, and not only busy
    with read_snapshot(engine) as conn:
        for user_id, events in acked.items():
            user = find_user(conn, user_id)
            assert user is not None
            log = [(e.event_id, e.user_seq) for e in read_tail(conn, user.user_key, 0, MAX_EVENTS)]
            assert set(events) <= set(log)
            assert max(Counter(event_id for event_id, _ in log).values()) == 1
    engine.dispose()
