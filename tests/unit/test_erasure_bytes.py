"""The bytes of a SQLite file after an erasure: a reader can put it off, nothing can fake it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from sql.engine import migrate, open_engine, read_snapshot
from sql.erasure import erase_user
from sql.erasure_bytes import CHECKPOINT_TRIES, purge_bytes
from sql.erasure_ledger import Ledger
from sql.errors import StoreBusy
from sql.events import EventKind, NewEvent, append
from sql.tables import users


def test_bytes_are_gone_when_it_returns_and_a_reader_is_told(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/moonlark.db")
    migrate(engine)
    told = [
        NewEvent(f"user-{n % 50}", f"e{n}", EventKind.SEARCH, text=f"canary-{n % 50} words {n}")
        for n in range(3_000)
    ]
    append(engine, [told], received_at_ms=1)

    def left() -> set[int]:
        files = [tmp_path / "moonlark.db", tmp_path / "moonlark.db-wal"]
        stored = b"".join(path.read_bytes() for path in files if path.exists())
        return {n for n in range(26) if f"canary-{n} ".encode() in stored}

    slept: list[float] = []
    with read_snapshot(engine) as conn:
        conn.execute(select(users)).all()
        for n in range(25):
            erase_user(engine, Ledger.open(tmp_path), f"user-{n}", at_ms=2)
        with pytest.raises(StoreBusy, match="reader"):
            purge_bytes(engine, sleep=slept.append)
    assert len(slept) == CHECKPOINT_TRIES
    # Deleted by another tool, without `secure_delete`: VACUUM alone takes such bytes away.
    with closing(sqlite3.connect(tmp_path / "moonlark.db", isolation_level=None)) as other:
        other.execute("PRAGMA secure_delete = OFF")
        other.execute("PRAGMA foreign_keys = ON")
        other.execute("DELETE FROM users WHERE user_id = 'user-25'")
    assert 25 in left()
    purge_bytes(engine, sleep=slept.append)
    assert left() == set()
    with read_snapshot(engine) as conn:
        assert len(conn.execute(select(users)).all()) == 24
    engine.dispose()
