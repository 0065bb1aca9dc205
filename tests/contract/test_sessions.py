"""Sessions go only forward; exposures are stored once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, select, update

from sql.engine import read_snapshot
from sql.exposures import Exposure, ShownItem, read_exposure, write_exposures
from sql.ids import BadInput
from sql.sessions import SessionRow, prune_sessions, read_session, write_sessions
from sql.tables import exposures
from sql.transactions import write
from tests.contract.store_builder import (
    NOW_MS,
    key_of,
    post,
    put,
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
    items = [ShownItem("i1", 0.5, 7, {"cosine": 0.25, "boost": 0.25}), ShownItem("i2", -1.0)]
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


def test_the_shortest_digits_of_a_float32_are_it_when_they_are_read(engine: Engine) -> None:
    items = [ShownItem("i1", 0.1, 7, {"cosine": 0.1})]
    write_exposures(engine, [replace(exposure("short", None), items=items)])
    with read_snapshot(engine) as conn:
        (stored,) = conn.execute(select(exposures.c["items"])).scalars()
        read = read_exposure(conn, "short")
    exact = float(np.float32(0.1))
    assert "0.1," in stored
    assert read is not None
    assert read.items == [ShownItem("i1", exact, 7, {"cosine": exact})]


def test_an_exposure_of_0_1_which_kept_no_parts_is_still_read(engine: Engine) -> None:
    write_exposures(engine, [exposure("old", None)])
    with write(engine) as conn:
        conn.execute(update(exposures).values(items='[["i1", 0.5]]'))
    with read_snapshot(engine) as conn:
        stored = read_exposure(conn, "old")
    assert stored is not None
    assert stored.items == [ShownItem("i1", 0.5, None, {})]
