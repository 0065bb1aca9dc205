"""Promise: the night's bulk writes are paced, so that acknowledgements get through between chunks.

The structure is tested, not the time: how many rows a transaction holds, and that a writer who
takes its turn in the pauses commits while the bulk is under way.
"""

import threading
from collections import Counter

import pytest
from sqlalchemy import Engine, event, func, select

from sql.engine import read_snapshot
from sql.sessions import SessionRow, prune_sessions, write_sessions
from sql.tables import sessions, users
from tests.contract.store_builder import NOW_MS, log, post, view

ROWS = 20_000
CHUNK = 200
PRUNE_CHUNK = 500
BUSY_USERS = 10
"""A user has a daily limit, and an idle machine is quick."""


@pytest.fixture
def user_keys(engine: Engine) -> list[int]:
    """Users as rows: how they came into the log does not matter here."""
    rows = [
        {
            "user_id": f"idle{number}",
            "user_key": number + 1,
            "last_user_seq": 0,
            "day": 0,
            "day_count": 0,
            "created_at_ms": NOW_MS,
        }
        for number in range(ROWS)
    ]
    with engine.begin() as conn:
        conn.execute(users.insert(), rows)
    return [row["user_key"] for row in rows]


class Transactions:
    """Rows of `sessions` that each committed transaction wrote or deleted."""

    def __init__(self, engine: Engine) -> None:
        self.rows: list[int] = []
        self._open: Counter[int] = Counter()
        event.listen(engine, "after_cursor_execute", self._executed)
        event.listen(engine, "commit", self._committed)

    def _executed(self, conn: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT INTO sessions", "DELETE FROM sessions")):
            self._open[threading.get_ident()] += max(0, getattr(cursor, "rowcount", 0))

    def _committed(self, _: object) -> None:
        written = self._open.pop(threading.get_ident(), 0)
        if written:
            self.rows.append(written)


def stored(engine: Engine) -> int:
    with read_snapshot(engine) as conn:
        return conn.execute(select(func.count()).select_from(sessions)).scalar_one()


def test_appends_are_acknowledged_between_the_chunks_of_a_bulk_write_and_of_a_prune(
    engine: Engine, user_keys: list[int]
) -> None:
    transactions = Transactions(engine)
    during: list[int] = []

    def live_traffic(_: float) -> None:
        """In the pause between two chunks. If the bulk held its lock, this would not return."""
        answers = post(engine, [view(f"e{len(during)}", user_id="busy")], keep=True)
        assert isinstance(answers[0], list)
        during.append(stored(engine))

    rows = (SessionRow(key, 1, b"state") for key in user_keys)
    assert write_sessions(engine, "g1", rows, sleep=live_traffic) == ROWS
    assert (max(transactions.rows), sum(transactions.rows)) == (CHUNK, ROWS)
    assert during == list(range(CHUNK, ROWS + 1, CHUNK)), "each append saw the chunks before it"

    transactions.rows.clear()
    during.clear()
    appended = len(log(engine, "busy"))
    assert prune_sessions(engine, ["g2"], sleep=live_traffic) == ROWS
    assert (max(transactions.rows), sum(transactions.rows)) == (PRUNE_CHUNK, ROWS)
    assert during == list(range(ROWS - PRUNE_CHUNK, -1, -PRUNE_CHUNK))
    assert appended == ROWS // CHUNK
    # The same event ids again: duplicates, so the log did not grow. Nothing was lost meanwhile.
    assert len(log(engine, "busy")) == appended


def test_a_writer_of_its_own_accord_gets_through_while_the_bulk_runs(
    engine: Engine, user_keys: list[int]
) -> None:
    started, ended = threading.Event(), threading.Event()
    acknowledged = 0

    def append_until_the_end() -> None:
        nonlocal acknowledged
        started.wait()
        while not ended.is_set():
            user_id = f"busy{acknowledged % BUSY_USERS}"
            (answer,) = post(engine, [view(f"e{acknowledged}", user_id=user_id)], keep=True)
            assert isinstance(answer, list), answer
            acknowledged += 1

    writer = threading.Thread(target=append_until_the_end)
    writer.start()
    rows = (SessionRow(key, 1, b"state") for key in user_keys)
    assert write_sessions(engine, "g1", rows, progress=lambda _: started.set()) == ROWS
    ended.set()
    writer.join()
    # The first may have been on its way before the bulk began, the last may have ended after it.
    assert acknowledged > 2
    logs = [log(engine, f"busy{number}") for number in range(min(BUSY_USERS, acknowledged))]
    assert sum(map(len, logs)) == acknowledged
