"""The bytes of deleted rows: what a database keeps after a DELETE, taken away as far as it can be.

SQLite: connections run with `secure_delete` (freed bytes become zeros), but pages that were
rebalanced keep old copies, and the write-ahead log keeps old pages. So VACUUM writes the file anew
and a TRUNCATE checkpoint empties the log. Writers wait while VACUUM runs (0.4 s for 14 MB).
Postgres: VACUUM of the tables of users; nobody waits. What that leaves is said in the receipt.
"""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, text

from sql.errors import StoreBusy, StoreUnavailable
from sql.tables import events, exposures, sessions, text_vectors, users
from sql.transactions import shown

CHECKPOINT_TRIES = 50
CHECKPOINT_WAIT_MS = 50
CHECKPOINT_PAUSE_S = 0.2

LEFT_OUT = "skipping"
"""What Postgres says of a table that it does not vacuum; other warnings are of work done."""


def purge_bytes(engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Take away what deleted rows left; return what was done, for the receipt.

    Raises:
        StoreBusy: SQLite was read or written without a pause; nothing is harmed, try again.
        StoreUnavailable: Postgres left out a table, which it tells by a warning alone.
    """
    if engine.dialect.name == "sqlite":
        _purge_sqlite(engine, sleep)
        return "VACUUM, wal_checkpoint(TRUNCATE)"
    names = ", ".join(table.name for table in (users, events, text_vectors, sessions, exposures))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        driver: Any = conn.connection.driver_connection
        warnings: list[str] = []

        def heard(notice: Any) -> None:
            if notice.severity_nonlocalized == "WARNING" and LEFT_OUT in notice.message_primary:
                warnings.append(notice.message_primary)

        driver.add_notice_handler(heard)
        try:
            conn.execute(text(f"VACUUM {names}"))
        finally:
            driver.remove_notice_handler(heard)
    if warnings:
        raise StoreUnavailable(
            shown(engine),
            f"VACUUM: {'; '.join(warnings)}",
            hint="`moonlark erase --finish` as the owner of the tables (infra/postgres/roles.sql).",
        )
    return f"VACUUM {names}"


def _purge_sqlite(engine: Engine, sleep: Callable[[float], None]) -> None:
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        # The checkpoint holds up the writers while it waits for a reader: not for long at a time.
        cursor.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
        for _ in range(CHECKPOINT_TRIES):
            (is_busy, _pages, _moved) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy:
                return
            sleep(CHECKPOINT_PAUSE_S)
    except sqlite3.OperationalError as error:
        raise StoreBusy(shown(engine), f"VACUUM: {error}") from error
    finally:
        connection.invalidate()  # it has another timeout now
    raise StoreBusy(shown(engine), "a reader keeps the write-ahead log from being emptied")
