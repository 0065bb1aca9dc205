"""SQLite's log is copied beside the writers: no commit does it, and the log does not grow for ever.

One file of its own a test; the sizes are pages of some kilobytes.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from sql.checkpoints import checkpoint
from sql.engine import open_engine, read_snapshot, write

LONG = 100
ROUNDS = 8
ROWS = 1_200
"""Of a page each: more than the 1,000 after which SQLite copies by itself."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "moonlark.db"


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{database}", checkpoints_beside=True)
    with write(engine) as conn:
        conn.exec_driver_sql("CREATE TABLE t (number integer PRIMARY KEY, body blob)")
    yield engine
    engine.dispose()


def put(engine: Engine, count: int = ROWS) -> None:
    with write(engine) as conn:
        conn.exec_driver_sql("INSERT INTO t (body) VALUES (?)", [(bytes(4_000),)] * count)


def log_bytes(database: Path) -> int:
    return database.with_name(f"{database.name}-wal").stat().st_size


def rows_of_the_file_alone(database: Path, to: Path) -> int:
    """Read without the log: what a checkpoint has copied."""
    to.write_bytes(database.read_bytes())
    lite = sqlite3.connect(to)
    try:
        (count,) = lite.execute("SELECT count(*) FROM t").fetchone()
    except sqlite3.OperationalError:  # not even the table is there
        return 0
    finally:
        lite.close()
    return int(count)


def test_a_commit_copies_nothing_a_checkpoint_all(
    engine: Engine, database: Path, tmp_path: Path
) -> None:
    put(engine)
    assert rows_of_the_file_alone(database, tmp_path / "before.db") == 0
    checkpoint(engine)
    assert rows_of_the_file_alone(database, tmp_path / "after.db") == ROWS


def test_a_long_log_begins_anew_while_others_write(engine: Engine, database: Path) -> None:
    stopping = threading.Event()

    def busy() -> None:
        while not stopping.is_set():
            put(engine, 5)

    writer = threading.Thread(target=busy)
    put(engine)
    writer.start()
    try:
        begun_anew = False
        deadline_s = time.monotonic() + 20
        while not begun_anew and time.monotonic() < deadline_s:
            begun_anew = checkpoint(engine, LONG)
    finally:
        stopping.set()
        writer.join()
    assert begun_anew
    checkpoint(engine)
    size = log_bytes(database)
    put(engine, 20)
    assert log_bytes(database) == size, "the log is written from its beginning"


def test_a_long_log_begins_anew_also_where_the_lock_is_hardly_ever_free(
    engine: Engine, database: Path
) -> None:
    stopping = threading.Event()

    def writer() -> None:
        while not stopping.is_set():
            with write(engine) as conn:
                conn.exec_driver_sql("INSERT INTO t (body) VALUES (?)", [(bytes(4_000),)] * 20)
                time.sleep(0.02)

    def reader() -> None:
        while not stopping.is_set():
            with read_snapshot(engine) as conn:
                conn.exec_driver_sql("SELECT count(*) FROM t").scalar_one()
                time.sleep(0.002)

    others = [threading.Thread(target=act) for act in (writer, writer, writer, *[reader] * 4)]
    for thread in others:
        thread.start()
    rounds = []
    try:
        for _ in range(ROUNDS):
            put(engine, 2 * LONG)  # the log is a long one again
            time.sleep(0.1)  # who read what was before it has ended
            rounds.append(checkpoint(engine, LONG))
    finally:
        stopping.set()
        for thread in others:
            thread.join()
    assert sum(rounds) > ROUNDS / 4, "RESTART got the lock in one of six to ten"
    assert checkpoint(engine, 0)
    size = log_bytes(database)
    put(engine, 20)
    assert log_bytes(database) == size, "the log is written from its beginning"


def test_a_reader_of_an_old_state_holds_up_no_writer(engine: Engine) -> None:
    put(engine, 1)
    with read_snapshot(engine) as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 1
        put(engine)
        began_s = time.monotonic()
        assert not checkpoint(engine, LONG)
        put(engine, 1)
        assert time.monotonic() - began_s < 10, "30 s are the engine's own patience"
        assert conn.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 1
