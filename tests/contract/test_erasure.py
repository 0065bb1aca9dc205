"""An erased user leaves nothing, and nothing brings him back: no retry, no race, no restore."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from infra.cli.erase_scan import scan_database
from serve.forgetting import Forgetting
from serve.session_cache import SessionCache
from sql import event_log
from sql.engine import open_engine, read_snapshot
from sql.erasure import PER_USER, Receipt, apply_ledger, erase_user
from sql.erasure_bytes import purge_bytes
from sql.erasure_ledger import Erased, Ledger
from sql.erasure_receipts import complete, erased_since, incomplete, open_since_ms, read_receipt
from sql.event import Appended, NewEvent, Rejected
from sql.events import append, find_user, write_text_vector
from sql.exposures import Exposure, ShownItem, write_exposures
from sql.generations import prune
from sql.sessions import SessionRow, read_session, write_sessions
from sql.tables import metadata, users
from tests.contract.store_builder import (
    NOW_MS,
    generation,
    key_of,
    log,
    post,
    put,
    refused,
    search,
    seqs,
    vector,
    view,
)

ERASURES = 10
ERASING_S = 20.0
WAIT_S = 20.0
T_MS = NOW_MS + 1_000
"""When users are erased here."""


@pytest.fixture(autouse=True)
def _catalog(engine: Engine) -> None:
    put(engine, "i1")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "root")


def erase(engine: Engine, ledger: Ledger, user_id: str = "u1", at_ms: int = T_MS) -> Receipt:
    return erase_user(engine, ledger, user_id, at_ms=at_ms)


def send(
    engine: Engine, ledger: Ledger, *events: NewEvent, at_ms: int = T_MS + 500
) -> list[Appended] | Rejected:
    (answer,) = append(engine, [events], received_at_ms=at_ms, erasures=ledger.key)
    return answer


def exposure(request_id: str, user_key: int | None) -> Exposure:
    return Exposure(
        request_id, user_key, "g1", 1, 2, NOW_MS, [ShownItem("i1", 0.1)], ("d",), {"k": 10}
    )


def store(engine: Engine, *rows: SessionRow) -> int:
    return write_sessions(engine, "g1", rows, pause_s=0)


def fill(engine: Engine, user_id: str) -> int:
    """A row in each table of a user."""
    post(engine, [view("a", user_id=user_id), search("b", "text", user_id, e1=vector(1))])
    key = key_of(engine, user_id)
    store(engine, SessionRow(key, 2, b"s"))
    write_exposures(engine, [exposure(f"of {user_id}", key)])
    return key


def rows_of(engine: Engine, user_key: int) -> dict[str, int]:
    """Rows by table, of every table of the schema that has a user_key."""
    with read_snapshot(engine) as conn:
        return {
            table.name: conn.execute(
                select(func.count()).where(table.c.user_key == user_key)
            ).scalar_one()
            for table in metadata.sorted_tables
            if "user_key" in table.c
        }


NAMES = {"users", *(table.name for table in PER_USER)}
FULL = {name: 2 if name == "events" else 1 for name in NAMES}
NOTHING = dict.fromkeys(NAMES, 0)


def test_erasure_takes_every_row_of_the_user_and_of_no_other(
    engine: Engine, ledger: Ledger
) -> None:
    one, two = fill(engine, "u1"), fill(engine, "u2")
    assert rows_of(engine, one) == FULL

    receipt = erase(engine, ledger)

    assert receipt.removed == FULL
    assert rows_of(engine, one) == NOTHING
    assert rows_of(engine, two) == FULL
    assert erase(engine, ledger).removed == NOTHING
    assert rows_of(engine, two) == FULL


def test_what_comes_late_for_an_erased_user_is_skipped(engine: Engine, ledger: Ledger) -> None:
    gone, stays = fill(engine, "u1"), fill(engine, "u2")
    erase(engine, ledger)
    assert store(engine, SessionRow(gone, 9, b"late"), SessionRow(stays, 9, b"new")) == 1
    assert write_exposures(engine, [exposure("l1", gone), exposure("l2", stays)]) == 1
    assert not write_text_vector(engine, gone, 2, "e2", vector(1))
    assert set(rows_of(engine, gone).values()) == {0}
    with read_snapshot(engine) as conn:
        assert read_session(conn, "g1", stays) == SessionRow(stays, 9, b"new")


def test_events_that_happened_before_the_erasure_are_gone_for_good(
    engine: Engine, ledger: Ledger
) -> None:
    before = fill(engine, "u1")
    erase(engine, ledger)

    late = view("a", occurred_at_ms=T_MS)
    assert refused(send(engine, ledger, late)) == [(0, "occurred_at", 410)]
    assert log(engine) == []
    new = view("n", occurred_at_ms=T_MS + 1)
    assert refused(send(engine, ledger, new, late)) == [(1, "occurred_at", 410)]
    assert log(engine) == []

    assert seqs(send(engine, ledger, new)) == [1]
    assert key_of(engine) != before
    # Still, now that there is a user again; and a retry of what is new stays harmless.
    assert refused(send(engine, ledger, late)) == [(0, "occurred_at", 410)]
    assert seqs(send(engine, ledger, new)) == [1]
    assert len(log(engine)) == 1


def test_an_unknown_user_can_be_erased_before_his_events_arrive(
    engine: Engine, ledger: Ledger
) -> None:
    receipt = erase(engine, ledger)
    assert (receipt.removed, receipt.weights) == (NOTHING, [])
    with read_snapshot(engine) as conn:
        assert find_user(conn, "u1") is None
    assert refused(send(engine, ledger, view("a", occurred_at_ms=T_MS - 1))) == [
        (0, "occurred_at", 410)
    ]


def test_the_database_and_the_ledger_do_not_say_who(engine: Engine, ledger: Ledger) -> None:
    fill(engine, "canary-user")
    erase(engine, ledger, "canary-user")
    (line,) = ledger.read()
    assert line == Erased(line.erasure_id, ledger.key.hmac_of("canary-user"), T_MS)
    assert b"canary-user" not in ledger.path.read_bytes()
    with read_snapshot(engine) as conn:
        assert erased_since(conn, T_MS) == {line.user_hmac}
        assert erased_since(conn, T_MS + 1) == set()


def test_the_scan_finds_text_and_bytes_in_every_column_and_nothing_afterwards(
    engine: Engine, ledger: Ledger
) -> None:
    said = 'canary "é"'
    events = [
        view("canary-e", user_id="canary-u", surface="canary-s", request_id="canary-r"),
        search("s", said, "canary-u"),
    ]
    post(engine, events)
    key = key_of(engine, "canary-u")
    store(engine, SessionRow(key, 1, b"\x00canary-b\xff"))
    write_exposures(engine, [exposure("canary-r", key)])

    def scan(*canaries: str) -> set[str]:
        return {place.split(":")[0] for place in scan_database(engine, canaries)}

    assert scan("canary") == {
        "users.user_id",
        "events.event_id",
        "events.text",
        "events.surface",
        "events.request_id",
        "sessions.state",
        "exposures.request_id",
    }
    assert scan(said, "nobody") == {"events.text"}
    erase(engine, ledger, "canary-u")
    assert scan("canary") == set()


# -- races ----------------------------------------------------------------------------------------


def test_an_erasure_waits_for_an_append_that_is_making_the_user(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go_on = Event(), Event()
    open_book = event_log._open_book

    def slowly(*arguments: Any) -> Any:
        made.set()
        assert go_on.wait(WAIT_S)
        return open_book(*arguments)

    monkeypatch.setattr(event_log, "_open_book", slowly)
    with ThreadPoolExecutor(2) as pool:
        sending = pool.submit(send, engine, ledger, view("a", occurred_at_ms=1))
        assert made.wait(WAIT_S)
        erasing = pool.submit(erase, engine, ledger)
        with pytest.raises(TimeoutError):
            erasing.result(0.5)
        go_on.set()
        assert seqs(sending.result(WAIT_S)) == [1]
        assert erasing.result(WAIT_S).removed["events"] == 1
    assert log(engine) == []


class SlowLedger(Ledger):
    """Says when it is about to write, and waits."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger.path, ledger.key)
        self.writing, self.go_on = Event(), Event()

    def append(self, entry: Erased) -> None:
        self.writing.set()
        assert self.go_on.wait(WAIT_S)
        super().append(entry)


@pytest.mark.parametrize("known", [True, False])
def test_an_append_waits_for_an_erasure_and_is_refused(
    engine: Engine, ledger: Ledger, known: bool
) -> None:
    if known:
        fill(engine, "u1")
    slow = SlowLedger(ledger)
    with ThreadPoolExecutor(2) as pool:
        erasing = pool.submit(erase, engine, slow)
        assert slow.writing.wait(WAIT_S)
        sending = pool.submit(send, engine, ledger, view("late", occurred_at_ms=T_MS - 1))
        with pytest.raises(TimeoutError):
            sending.result(0.5)
        slow.go_on.set()
        erasing.result(WAIT_S)
        assert refused(sending.result(WAIT_S)) == [(0, "occurred_at", 410)]
    assert log(engine) == []


def test_erasure_amid_writers_leaves_no_orphan(engine: Engine, ledger: Ledger) -> None:
    done = Event()

    def until_done(work: Callable[[int], object]) -> int:
        n = 0
        while not done.is_set():
            work(n := n + 1)
        return n

    def write_session(n: int) -> None:
        with read_snapshot(engine) as conn:
            user = find_user(conn, "u1")
        if user:
            store(engine, SessionRow(user.user_key, n, b"s"))
            write_exposures(engine, [exposure(f"r{n}", user.user_key)])

    def write_events(n: int) -> None:
        (answer,) = post(engine, [view(f"e{n}"), search(f"s{n}", "t", e1=vector(1))])
        assert isinstance(answer, list)
        assert answer[1].user_seq == answer[0].user_seq + 1

    erased = 0
    end = time.monotonic() + ERASING_S
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(until_done, work) for work in (write_events, write_session)]
        try:
            while erased < ERASURES and time.monotonic() < end:
                erased += erase(engine, ledger).removed["users"]
        finally:
            done.set()
        assert all(writer.result(30) for writer in writers)
    assert erased > 0
    erase(engine, ledger)
    with read_snapshot(engine) as conn:
        left = [
            table.name
            for table in metadata.sorted_tables
            if "user_key" in table.c and conn.execute(select(table.c.user_key)).first()
        ]
    assert left == []


# -- crash and restore ----------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class DyingLedger(Ledger):
    """Dies when the line is on disk, before the database has committed."""

    def append(self, entry: Erased) -> None:
        super().append(entry)
        raise Killed


def test_a_crash_between_the_ledger_and_the_database_ends_in_an_erased_user(
    engine: Engine, ledger: Ledger
) -> None:
    key = fill(engine, "u1")
    with pytest.raises(Killed):
        erase(engine, DyingLedger(ledger.path, ledger.key))
    assert rows_of(engine, key) == FULL

    assert apply_ledger(engine, ledger) == 1
    assert rows_of(engine, key) == NOTHING
    (line,) = ledger.read()
    with read_snapshot(engine) as conn:
        receipt = read_receipt(conn, line.erasure_id)
    assert receipt is not None
    assert receipt.removed == FULL
    assert apply_ledger(engine, ledger) == 0
    assert refused(send(engine, ledger, view("a", occurred_at_ms=T_MS))) == [
        (0, "occurred_at", 410)
    ]


def test_replicas_carry_out_what_broke_off_before_the_user_does_much_more(
    engine: Engine, ledger: Ledger
) -> None:
    fill(engine, "u1")
    erase(engine, ledger)
    forgetting = Forgetting(engine, ledger, SessionCache(10), lambda: NOW_MS)
    key = fill(engine, "u2")
    with pytest.raises(Killed):
        erase(engine, DyingLedger(ledger.path, ledger.key), "u2")
    assert forgetting.finish() == 0  # it grew: whoever wrote the line may be about to commit
    assert rows_of(engine, key) == FULL
    assert forgetting.finish() == 1
    assert rows_of(engine, key) == NOTHING
    assert forgetting.finish() == 0


def test_a_restored_database_is_told_whom_to_forget(
    engine: Engine, ledger: Ledger, new_url: Callable[[], str]
) -> None:
    restored = open_engine(new_url())  # as the database was before the erasures
    try:
        put(restored, "i1")
        for store_ in (engine, restored):
            fill(store_, "u1")
            fill(store_, "u2")
        first = erase(engine, ledger, at_ms=T_MS)
        second = erase(engine, ledger, at_ms=T_MS + 5)
        assert key_of(restored)

        assert apply_ledger(restored, ledger) == 1

        with read_snapshot(restored) as conn:
            assert find_user(conn, "u1") is None
            assert find_user(conn, "u2") is not None
            found = [read_receipt(conn, r.erasure_id) for r in (first, second)]
            assert incomplete(conn) == [first.erasure_id, second.erasure_id]
        assert [r.removed["users"] for r in found if r] == [0, 1]
        late = view("a", occurred_at_ms=T_MS + 5)
        assert refused(send(restored, ledger, late)) == [(0, "occurred_at", 410)]
        assert apply_ledger(restored, ledger) == 0
    finally:
        restored.dispose()


def test_a_user_who_came_back_is_another_and_stays_whatever_the_clocks_say(
    engine: Engine, ledger: Ledger
) -> None:
    erase(engine, ledger)
    # Received by a replica whose clock is behind that of the one which erased.
    answer = send(engine, ledger, view("a", occurred_at_ms=T_MS + 9), at_ms=T_MS - 300)
    assert seqs(answer) == [1]
    assert apply_ledger(engine, ledger, thorough=True) == 0
    assert len(log(engine)) == 1


def test_an_erasure_is_never_dated_before_its_user_was_made(engine: Engine, ledger: Ledger) -> None:
    post(engine, [view("a")], at_ms=T_MS + 300)  # by a replica whose clock is ahead
    assert erase(engine, ledger).erased_at_ms == T_MS + 300


def test_thorough_finds_who_should_not_be_there(engine: Engine, ledger: Ledger) -> None:
    receipt = erase(engine, ledger)
    complete(engine, [receipt.erasure_id], {}, at_ms=T_MS)
    post(engine, [view("a")])  # by code that did not know of the key
    assert apply_ledger(engine, ledger) == 0
    told: list[int] = []
    assert apply_ledger(engine, ledger, thorough=True, progress=told.append) == 1
    assert (log(engine), told) == ([], [1])
    with read_snapshot(engine) as conn:
        assert incomplete(conn) == [receipt.erasure_id]


# -- receipts -------------------------------------------------------------------------------------


def test_a_receipt_names_the_generations_until_they_are_pruned(
    engine: Engine, ledger: Ledger
) -> None:
    generation(engine, "old", created_at_ms=NOW_MS - 3_600_000)
    generation(engine, "g1", created_at_ms=NOW_MS + 1)
    generation(engine, "g2", created_at_ms=NOW_MS + 2)
    fill(engine, "u1")
    receipt = erase(engine, ledger)
    assert receipt.weights == ["g2", "g1"]
    assert any("g2, g1" in line for line in receipt.cannot_rewrite)
    prune(engine, "g1")
    with read_snapshot(engine) as conn:
        again = read_receipt(conn, receipt.erasure_id)
        assert read_receipt(conn, "none") is None
    assert again is not None
    assert again.weights == ["g2"]


def test_a_receipt_is_complete_when_the_job_says_so(engine: Engine, ledger: Ledger) -> None:
    fill(engine, "u1")
    receipt = erase(engine, ledger)
    assert receipt.completed_at_ms is None
    assert receipt.to_rewrite
    with read_snapshot(engine) as conn:
        assert incomplete(conn) == [receipt.erasure_id]
        assert open_since_ms(conn) == receipt.erased_at_ms
    done = {"database": purge_bytes(engine, sleep=lambda _: None)}
    complete(engine, [receipt.erasure_id], done, at_ms=T_MS + 7)
    with read_snapshot(engine) as conn:
        assert incomplete(conn) == []
        assert open_since_ms(conn) is None
        after = read_receipt(conn, receipt.erasure_id)
    assert after is not None
    assert (after.completed_at_ms, after.to_rewrite, after.rewritten) == (T_MS + 7, (), done)
    assert after.removed == FULL


def test_the_users_row_that_locks_an_unknown_id_does_not_stay(
    engine: Engine, ledger: Ledger
) -> None:
    erase(engine, ledger)
    with read_snapshot(engine) as conn:
        assert conn.execute(select(users.c.user_id)).all() == []
