"""Sessions of Postgres that hold a lock and do nothing: found and ended, for the on-call.

A client that began a change and forgot it keeps writers waiting until somebody ends its session.
Statements that work are left alone, however long they take.
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from sql.transactions import driver_errors, read_snapshot

IDLE_S = 1.0
"""A writer of moonlark's own may pause for a collection of garbage, 0.2 s, between statements."""
FORGOTTEN_S = 10.0
NO_SESSIONS = (
    "database_url: SQLite has no sessions, accepted: Postgres; of SQLite `fuser moonlark.db` names "
    "the processes that have it open"
)

# `backend_xid`: it has written, or locked rows. Who only reads, as an export does for minutes with
# pauses, holds up nobody but a migration, which gives way by itself.
_HOLDERS = text("""
    WITH strong AS (
        SELECT pid FROM pg_locks
        WHERE locktype = 'relation' AND granted
          AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
          AND relation IN (SELECT oid FROM pg_class WHERE relpersistence <> 't'))
    SELECT pid, usename, application_name, state_change, left(query, 80) AS statement,
           extract(epoch FROM clock_timestamp() - state_change)::float AS idle_s
    FROM pg_stat_activity
    WHERE datname = current_database()
      AND state LIKE 'idle in transaction%'
      AND state_change < clock_timestamp() - make_interval(secs => :idle_s)
      AND (pid IN (SELECT unnest(pg_blocking_pids(pid))
                   FROM pg_stat_activity WHERE wait_event_type = 'Lock')
           AND (backend_xid IS NOT NULL OR pid IN (SELECT pid FROM strong))
           OR state_change < clock_timestamp() - make_interval(secs => :forgotten_s)
              AND pid IN (SELECT pid FROM strong))
    ORDER BY pid
""")
_MAY_LOOK = text("SELECT current_user, pg_has_role('pg_read_all_stats', 'USAGE')")
_END = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = :pid AND state_change = :state_change
""")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who held a lock. `statement`: the beginning of the last one it sent. `is_ended`: False where
    this role may not end it (a superuser's)."""

    pid: int
    role: str
    application: str
    idle_s: float
    statement: str
    is_ended: bool


def end_idle_holders(
    engine: Engine, *, idle_s: float = IDLE_S, forgotten_s: float = FORGOTTEN_S
) -> list[Holder]:
    """End the sessions of this database that are idle within a transaction, for `idle_s` where
    another waits for a lock of theirs, and for `forgotten_s` where they hold one that keeps writers
    from a whole table.

    Raises ValueError where the database is SQLite, which has no sessions, and where this role may
    not look at others' (infra/postgres/roles.sql: moonlark_oncall may).
    """
    if engine.dialect.name != "postgresql":
        raise ValueError(NO_SESSIONS)
    with read_snapshot(engine) as conn:
        role, may_look = conn.execute(_MAY_LOOK).one()
        if not may_look:
            raise ValueError(
                f"database_url: the role {role!r} may not see others' sessions, accepted: one "
                "with pg_read_all_stats, as moonlark_oncall"
            )
        found = conn.execute(_HOLDERS, {"idle_s": idle_s, "forgotten_s": forgotten_s}).all()
    with driver_errors(engine), engine.connect() as conn:
        return [
            Holder(row.pid, row.usename, row.application_name, row.idle_s, row.statement, is_ended)
            for row in found
            if (is_ended := _end(conn, row.pid, row.state_change)) is not None
        ]


def _end(conn: Connection, pid: int, state_change: datetime) -> bool | None:
    """None: it has gone on by itself."""
    try:
        return conn.execute(_END, {"pid": pid, "state_change": state_change}).scalar() or None
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        return False
    finally:
        conn.rollback()
