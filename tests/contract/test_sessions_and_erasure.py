"""Sessions go only forward; an erased user leaves nothing and nothing late comes back."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import Engine, func, select, update

from sql.engine import read_snapshot
from sql.erasure import PER_USER, Receipt, erase_user
from sql.events import find_user, write_text_vector
from sql.exposures import Exposure, ShownItem, read_exposure, write_exposures
from sql.ids import BadInput
from sql.sessions import SessionRow, prune_sessions, read_session, write_sessions
from sql.tables import exposures, metadata
from sql.transactions import write
from tests.contract.store_builder import (
    NOW_MS,
    key_of,
    log,
    post,
    put,
    search,
    seqs,
    vector,
    view,
)

ERASURES = 10
ERASING_S = 20.0


@pytest.fixture(autouse=True)
def _catalog(engine: Engine) -> None:
    put(engine, "i1")


def store(engine: Engine, *rows: SessionRow, generation_id: str = "g1", chunk: int = 200) -> int:
    return write_sessions(engine, generation_id, rows, chunk=chunk, pause_s=0)


def session(engine: Engine, user_key: int, generation_id: str = "g1") -> SessionRow | None:
    with read_snapshot(engine) as conn:
        return read_session(conn, generation_id, user_key)


def exposure(request_id: str, user_key: int | None) -> Exposure:
    items = [ShownItem("i1", 0.1, 7, {"cosine": 0.05, "boost": 0.05}), ShownItem("i2", -1.0)]
    return Exposure(request_id, user_key, "g1", 1, 2, NOW_MS, items, ("d",), {"k": 10})


# -- sessions -------------------------------------------------------------------------------------


def test_sessions_are_written_only_forward(engine: Engine) -> None:
    post(engine, [view("a"), view("b"), view("c", user_id="u2")])
    one, two = key_of(engine), key_of(engine, "u2")
    assert store(engine, SessionRow(one, 2, b"\x00new"), SessionRow(two, 1, b"")) == 2
    assert store(engine, SessionRow(one, 1, b"late"), SessionRow(two, 1, b"same")) == 0
    assert session(engine, one) == SessionRow(one, 2, b"\x00new")
    assert session(engine, two) == SessionRow(two, 1, b"")
    assert store(engine, SessionRow(one, 3, b"newer"), SessionRow(two, 0, b"old")) == 1
    assert session(engine, one) == SessionRow(one, 3, b"newer")
    assert session(engine, one, "g2") is None


def test_sessions_of_one_user_twice_in_a_chunk(engine: Engine) -> None:
    post(engine, [view("a"), view("b")])
    key = key_of(engine)
    store(engine, SessionRow(key, 2, b"two"), SessionRow(key, 1, b"one"))
    assert session(engine, key) == SessionRow(key, 2, b"two")


def test_sessions_come_in_paced_chunks(engine: Engine) -> None:
    post(engine, [view("a", user_id=f"u{n}") for n in range(7)])
    rows = [SessionRow(key_of(engine, f"u{n}"), 1, b"s") for n in range(7)]
    told: list[int] = []
    slept: list[float] = []
    stored = write_sessions(
        engine, "g1", iter(rows), chunk=3, pause_s=0.5, progress=told.append, sleep=slept.append
    )
    assert (stored, told, slept) == (7, [3, 3, 1], [0.5, 0.5, 0.5])
    with pytest.raises(BadInput):
        write_sessions(engine, "g1", rows, chunk=0)


def test_prune_keeps_the_sessions_of_the_named_generations(engine: Engine) -> None:
    post(engine, [view("a", user_id=f"u{n}") for n in range(5)])
    keys = [key_of(engine, f"u{n}") for n in range(5)]
    for name in ("g1", "g2", "g3"):
        store(engine, *(SessionRow(key, 1, b"s") for key in keys), generation_id=name)
    assert prune_sessions(engine, ["g2"], chunk=3, pause_s=0) == 10
    assert prune_sessions(engine, ["g2"], chunk=3, pause_s=0) == 0
    assert all(session(engine, key, "g2") for key in keys)
    assert not any(session(engine, key, name) for key in keys for name in ("g1", "g3"))


def test_writers_at_once_leave_the_newest_session(engine: Engine) -> None:
    post(engine, [view("a", user_id=f"u{n}") for n in range(4)])
    keys = [key_of(engine, f"u{n}") for n in range(4)]

    def race(writer: int) -> None:
        order = keys if writer % 2 else keys[::-1]
        for seq in range(writer, 40, 4):
            store(engine, *(SessionRow(key, seq, b"%d" % seq) for key in order))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
    assert [session(engine, key) for key in keys] == [SessionRow(key, 39, b"39") for key in keys]


# -- exposures ------------------------------------------------------------------------------------


def test_exposures_are_stored_once(engine: Engine) -> None:
    post(engine, [view("a")])
    shown = [exposure("r2", key_of(engine)), exposure("r1", None)]
    assert write_exposures(engine, shown) == 2
    assert write_exposures(engine, [*shown, exposure("r3", None)]) == 1
    with read_snapshot(engine) as conn:
        assert read_exposure(conn, "r2") == shown[0]
        assert read_exposure(conn, "r1") == shown[1]
        assert read_exposure(conn, "r9") is None


def test_an_exposure_of_0_1_which_kept_no_parts_is_still_read(engine: Engine) -> None:
    write_exposures(engine, [exposure("old", None)])
    with write(engine) as conn:
        conn.execute(update(exposures).values(items='[["i1", 0.5]]'))
    with read_snapshot(engine) as conn:
        stored = read_exposure(conn, "old")
    assert stored is not None
    assert stored.items == [ShownItem("i1", 0.5, None, {})]


# -- erasure --------------------------------------------------------------------------------------


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


def test_erasure_takes_every_row_of_the_user_and_of_no_other(engine: Engine) -> None:
    one, two = fill(engine, "u1"), fill(engine, "u2")
    names = {"users", *(table.name for table in PER_USER)}
    full = {name: 2 if name == "events" else 1 for name in names}
    assert rows_of(engine, one) == full

    assert erase_user(engine, "u1") == Receipt("u1", full)

    assert rows_of(engine, one) == dict.fromkeys(names, 0)
    assert rows_of(engine, two) == full
    assert erase_user(engine, "u1") == Receipt("u1", dict.fromkeys(names, 0))


def test_what_comes_late_for_an_erased_user_is_skipped(engine: Engine) -> None:
    gone, stays = fill(engine, "u1"), fill(engine, "u2")
    erase_user(engine, "u1")
    assert store(engine, SessionRow(gone, 9, b"late"), SessionRow(stays, 9, b"new")) == 1
    assert write_exposures(engine, [exposure("l1", gone), exposure("l2", stays)]) == 1
    assert not write_text_vector(engine, gone, 2, "e2", vector(1))
    assert set(rows_of(engine, gone).values()) == {0}
    assert session(engine, stays) == SessionRow(stays, 9, b"new")


def test_user_who_comes_back_is_another(engine: Engine) -> None:
    before = fill(engine, "u1")
    erase_user(engine, "u1")
    (answer,) = post(engine, [view("a")])
    assert seqs(answer) == [1]
    assert key_of(engine) != before
    assert len(log(engine)) == 1


def test_erasure_amid_writers_leaves_no_orphan(engine: Engine) -> None:
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
                erased += erase_user(engine, "u1").counts["users"]
        finally:
            done.set()
        assert all(writer.result(30) for writer in writers)
    assert erased > 0
    erase_user(engine, "u1")
    with read_snapshot(engine) as conn:
        left = [
            table.name
            for table in metadata.sorted_tables
            if "user_key" in table.c and conn.execute(select(table.c.user_key)).first()
        ]
    assert left == []
