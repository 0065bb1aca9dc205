"""Copies SQLite's write-ahead log into the database file beside the writers.

By default whoever makes the log 1,000 pages long copies it and syncs the file before its commit
returns: every 50th commit of five events, 50 to 280 ms each. Engines that are opened with
`checkpoints_beside` leave that to a thread which calls `checkpoint`, and copy for themselves only
where the log grew to `LONGEST_LOG_PAGES` all the same.

PASSIVE copies what it can and holds up nobody, but while others write it never comes to the end of
the log, and only then does the log begin anew. So a long one is ended by RESTART, which has writers
wait while it copies what came during the last PASSIVE.
"""

from typing import Any

from sqlalchemy import Engine

from sql.engine import LOCK_TIMEOUT_MS
from sql.transactions import driver_errors

LONG_LOG_PAGES = 10_000
"""40 MB: from here on the log is to begin anew."""

RESTART_TIMEOUT_MS = 250
"""RESTART waits so long for the writers' lock, and for readers while it has it."""


def checkpoint(engine: Engine, long_log_pages: int = LONG_LOG_PAGES) -> bool:
    """Copy what the log has; a long log begins anew. Returns whether it was told to and could.

    Raises as `transactions.write` does.
    """
    with driver_errors(engine):
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            pages, _ = _copy(cursor, "PASSIVE")
            if pages <= long_log_pages:
                return False
            if _copy(cursor, "PASSIVE")[1] < pages:
                return False  # a reader of an old state keeps its pages: RESTART would be in vain
            cursor.execute(f"PRAGMA busy_timeout = {RESTART_TIMEOUT_MS}")
            try:
                (is_busy, *_) = cursor.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_MS}")
            return not is_busy
        finally:
            connection.close()  # back to the pool


def _copy(cursor: Any, mode: str) -> tuple[int, int]:
    """(pages of the log, pages of it that were copied so far); -1 where another copies now."""
    (_, pages, copied) = cursor.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return pages, copied
