"""The bytes of a SQLite file after an erasure: a reader can put it off, nothing can fake it."""

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
        return {n for n in range(25) if f"canary-{n} ".encode() in stored}

    slept: list[float] = []
    with read_snapshot(engine) as conn:
        conn.execute(select(users)).all()
        for n in range(25):
            erase_user(engine, Ledger.open(tmp_path), f"user-{n}", at_ms=2)
        with pytest.raises(StoreBusy, match="reader"):
            purge_bytes(engine, sleep=slept.append)
    assert len(slept) == CHECKPOINT_TRIES
    assert left()
    purge_bytes(engine, sleep=slept.append)
    assert left() == set()
    with read_snapshot(engine) as conn:
        assert len(conn.execute(select(users)).all()) == 25
    engine.dispose()
