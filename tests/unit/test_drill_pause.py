"""A replica is frozen between two writes: whoever sleeps with SQLite's lock holds up all others."""

import sqlite3
from pathlib import Path

import pytest

from infra.drills import pause


def test_who_sleeps_with_the_lock_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "LOCK_WAIT_S", 0.01)
    path = tmp_path / "moonlark.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    assert pause.may_write(f"sqlite:///{path}")
    writer.execute("BEGIN IMMEDIATE")
    assert not pause.may_write(f"sqlite:///{path}")
    writer.execute("ROLLBACK")
    assert pause.may_write(f"sqlite:///{path}")
    writer.close()
