"""How a connection is opened, and made safe.

`open_engine` refuses a database that may lose a committed write. The two ways into a transaction
(`write`, `read_snapshot`, from `transactions`) and the schema (`migrate`, `check_schema`, from
`schema`) are named here too, so that a caller needs this module alone.
"""

import random
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sql.errors import UnsafeDatabase
from sql.schema import check_schema, migrate
from sql.transactions import BEGIN_IMMEDIATE, BEGIN_OPTION, read_snapshot, shown, write

__all__ = ["check_schema", "migrate", "open_engine", "read_snapshot", "shown", "write"]

LOCK_TIMEOUT_MS = 30_000
CACHE_KIB = 32_000
"""Of pages, a connection of SQLite at most: a group of 800 events writes some 2,500 of 4 KiB, and
what does not fit goes to the log before its commit, and is read again."""
LONGEST_LOG_PAGES = 100_000
"""400 MB: where nobody else copied it, the commit does that makes SQLite's log so long."""
WAL_RETRY_S = 0.005
LOCK_RETRY_S = 0.001
"""Half of it to one and a half: two who wait, and one who comes again each few ms, take turns."""
_TURNS = random.Random()
"""Of its own: whoever seeds the module's would have two processes ask in step."""
POOL_SIZE = 16
POOL_OVERFLOW = 16
POOL_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5

_POSTGRES_SCHEMES = {"postgres", "postgresql"}
_SYNCHRONOUS_FULL = 2
_LOCKED = ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY")
"""Another writes; another reads the log of one that was killed."""


def open_engine(
    database_url: str,
    *,
    statement_timeout_s: float | None = None,
    checkpoints_beside: bool = False,
) -> Engine:
    """Open the database, creating the folder of a SQLite file.

    `statement_timeout_s`: Postgres gives up a statement that takes longer, waiting for a lock
    included. None: a bulk write may take its time. `checkpoints_beside`: SQLite's log is copied by
    a thread of the caller's (`sql.checkpoints`), so that no commit has to.

    Raises `UnsafeDatabase` where a committed write might be lost, `StoreUnavailable` where the
    database does not answer, `ValueError` for a URL that is neither SQLite nor Postgres.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # neither may be shown: the password is somewhere in it
        accepted = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise ValueError(f"database_url: cannot be read, accepted: {accepted}") from None
    if url.drivername in _POSTGRES_SCHEMES:
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        engine = _open_sqlite(url, checkpoints_beside)
    elif url.get_backend_name() == "postgresql":
        engine = _open_postgres(url, statement_timeout_s)
    else:
        raise ValueError(f"database_url: {url.drivername!r} is neither sqlite nor postgresql")
    with read_snapshot(engine):  # connects, and so checks
        return engine


def _open_sqlite(url: URL, checkpoints_beside: bool) -> Engine:
    name = url.database or ":memory:"
    if ":memory:" in name or "mode=memory" in str(url):
        raise UnsafeDatabase(str(url), "database", "in memory", "a file")
    Path(name.removeprefix("file:")).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the one used last: its pages and statements are at hand
        connect_args={"timeout": LOCK_TIMEOUT_MS / 1000},
        hide_parameters=True,  # an error that is logged must not name users
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, see _begin
        cursor = connection.cursor()
        _set_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        cursor.execute("PRAGMA secure_delete = ON")  # an erased row leaves zeros (erasure_bytes)
        if checkpoints_beside:
            cursor.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG_PAGES}")
        check_sqlite(cursor, str(url))
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # By the driver: as a statement of SQLAlchemy's it took ten times as long.
        driver: Any = connection.connection.driver_connection
        if connection.get_execution_options().get(BEGIN_OPTION) == BEGIN_IMMEDIATE:
            _take_lock(driver)
        else:
            driver.execute("BEGIN")

    return engine


def _take_lock(driver: Any) -> None:
    """BEGIN IMMEDIATE, tried again each `LOCK_RETRY_S`. SQLite's own waiting sleeps ever longer,
    up to 100 ms, and so misses the pauses that a bulk write makes for others."""
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        driver.execute(BEGIN_IMMEDIATE)
    except sqlite3.OperationalError as error:
        if not (_is_locked(error) and _got_lock(driver)):
            raise
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_MS}")


def _got_lock(driver: Any) -> bool:
    deadline_s = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while time.monotonic() < deadline_s:
        time.sleep(LOCK_RETRY_S * _TURNS.uniform(0.5, 1.5))
        try:
            driver.execute(BEGIN_IMMEDIATE)
        except sqlite3.OperationalError as error:
            if not _is_locked(error):
                return False
        else:
            return True
    return False


def _is_locked(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", None) in _LOCKED


def _set_wal(cursor: sqlite3.Cursor) -> None:
    """Switch the file to WAL. Where two processes do so at once on a new file, SQLite answers one
    of them that it is locked, without waiting for the busy timeout."""
    deadline_s = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline_s:
                raise
            time.sleep(WAL_RETRY_S)


def _open_postgres(url: URL, statement_timeout_s: float | None) -> Engine:
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS}"
    if statement_timeout_s is not None:
        options += f" -c statement_timeout={int(statement_timeout_s * 1000)}"
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the one used last: its pages and statements are at hand
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "options": options,
            "connect_timeout": CONNECT_TIMEOUT_S,
        },
    )

    @event.listens_for(engine, "connect")
    def _check(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            check_postgres(cursor, shown(engine))
        connection.rollback()

    return engine


def check_sqlite(cursor: Any, database: str) -> None:
    """Raise `UnsafeDatabase` unless this connection syncs each commit and keeps foreign keys.

    synchronous=NORMAL in WAL mode loses the last commits at a power cut; a journal mode other than
    WAL lets a reader stall the writer.
    """
    for setting, accepted in (
        ("synchronous", _SYNCHRONOUS_FULL),
        ("journal_mode", "wal"),
        ("foreign_keys", 1),
    ):
        actual = cursor.execute(f"PRAGMA {setting}").fetchone()[0]
        if actual != accepted:
            raise UnsafeDatabase(database, setting, str(actual), str(accepted))


def check_postgres(cursor: Any, database: str) -> None:
    """Raise `UnsafeDatabase` where a committed write may be lost with the server's machine."""
    for setting in ("fsync", "synchronous_commit"):
        actual = cursor.execute(f"SHOW {setting}").fetchone()[0]
        if actual == "off":
            raise UnsafeDatabase(database, setting, actual, "on")
