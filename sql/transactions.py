"""The two ways into a transaction: `write` and `read_snapshot`.

BEGIN is always explicit: the sqlite3 module would otherwise begin a transaction only before the
first write, and a "snapshot" of two reads would be two snapshots.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sql.errors import StoreBusy, StoreUnavailable

BEGIN_IMMEDIATE = "BEGIN IMMEDIATE"
BEGIN_OPTION = "moonlark_begin"
"""Execution option: the statement with which a SQLite transaction begins (see `engine`)."""

_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)
_DRIVER_ERRORS = (
    *(sqlite3.OperationalError, sqlite3.InterfaceError),
    *(psycopg.OperationalError, psycopg.InterfaceError),
)
_BUSY_SQLSTATES = {"40P01", "40001", "55P03"}  # deadlock, serialisation, lock timeout


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """A write transaction: committed at the end of the block, rolled back if it raises.

    SQLite: BEGIN IMMEDIATE (the one writer's lock is taken at once, so that no read is ever stale
    when it is written upon). Postgres: READ COMMITTED, so that each statement after a lock sees
    what the lock waited for.
    """
    with driver_errors(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection = connection.execution_options(**{BEGIN_OPTION: BEGIN_IMMEDIATE})
        with connection.begin():
            yield connection


@contextmanager
def read_snapshot(engine: Engine) -> Iterator[Connection]:
    """A read transaction on one consistent snapshot (SQLite WAL; Postgres REPEATABLE READ)."""
    with driver_errors(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        with connection.begin():
            yield connection


def shown(engine: Engine) -> str:
    """The URL without what is secret of it, for errors and logs: also `?password=` has a place."""
    url = engine.url
    secret = {name: "***" for name in url.query if _SECRET.search(name)}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


@contextmanager
def driver_errors(engine: Engine) -> Iterator[None]:
    """Errors of the store are ours, whether SQLAlchemy was asked or the driver itself."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreBusy(shown(engine), f"no free connection: {error}") from error
    except (OperationalError, InterfaceError) as error:
        raise _ours(engine, error.orig) from error
    except _DRIVER_ERRORS as error:
        raise _ours(engine, error) from error


def _ours(engine: Engine, error: BaseException | None) -> StoreUnavailable:
    kind = StoreBusy if _is_busy(error) else StoreUnavailable
    return kind(shown(engine), str(error))


def _is_busy(error: BaseException | None) -> bool:
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith("SQLITE_BUSY") or getattr(error, "sqlstate", None) in _BUSY_SQLSTATES
