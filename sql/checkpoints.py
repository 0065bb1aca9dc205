"""Copies SQLite's write-ahead log into the database file beside the writers.

By default whoever makes the log 1,000 pages long copies it and syncs the file before its commit
returns: every 50th commit of five events, 50 to 280 ms each. Engines that are opened with
`checkpoints_beside` leave that to a thread which calls `checkpoint`, and copy for themselves only
where the log grew to `LONGEST_LOG_PAGES` all the same.

PASSIVE copies what it can and holds up nobody, but while others write it never comes to the end of
the log, and only a writer who finds it copied to its end begins it anew. So a long one is copied to
its end with the writers' lock held. (RESTART would do both, but waits for that lock in steps of up
to 100 ms; where others leave it for a millisecond at a time it seldom gets it, and the log grows
until commits have to copy it.)
"""

import time
from typing import Any

from sqlalchemy import Engine

from sql.engine import write
from sql.transactions import driver_errors

LONG_LOG_PAGES = 30_000
"""120 MB: from here on the log is to begin anew."""

READERS_END_S = 0.05
AGAIN_S = 0.002
"""Writers wait so long at most, and it is looked so often whether the readers have ended."""


def checkpoint(engine: Engine, long_log_pages: int = LONG_LOG_PAGES) -> bool:
    """Copy what the log has. Returns whether it was a long one and is copied to its end: whoever
    writes next begins it anew, unless somebody still reads an old state of it.

    Raises as `transactions.write` does.
    """
    with driver_errors(engine):
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            pages, _ = _copy(cursor)
            if pages <= long_log_pages:
                return False
            pages, copied = _copy(cursor)
            if pages - copied > long_log_pages // 2:
                return False  # a reader of an old state keeps its pages: it would be in vain
            with write(engine):  # little came meanwhile, and nothing comes now
                return _copy_to_the_end(cursor)
        finally:
            connection.close()  # back to the pool


def _copy_to_the_end(cursor: Any) -> bool:
    """While nobody writes: readers of an older state keep its pages, and most end in some ms."""
    deadline_s = time.monotonic() + READERS_END_S
    while True:
        pages, copied = _copy(cursor)
        if 0 < pages == copied:
            return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(AGAIN_S)


def _copy(cursor: Any) -> tuple[int, int]:
    """(pages of the log, pages of it that were copied so far); -1 where another copies now."""
    (_, pages, copied) = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return pages, copied
