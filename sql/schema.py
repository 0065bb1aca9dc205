"""The schema in the database: brought up to date by Alembic, checked at each start."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from sql.errors import SchemaBehind, StoreBusy
from sql.transactions import read_snapshot, shown, write

log = logging.getLogger("moonlark.schema")

# Any constant will do; all processes that migrate one database must use the same.
_MIGRATION_LOCK = 0x6D6F6F6E

LOCK_TIMEOUT_S = 1
"""While a migration waits for a table, so does everyone who comes after it: no longer than this."""
LOCK_TRIES = 60
LOCK_PAUSE_S = 1.0


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(
    engine: Engine, revision: str = "head", *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Bring the schema to the newest revision (or to `revision`), in one transaction.

    Safe when several processes call it at once: the first holds the lock (SQLite's writer lock, an
    advisory lock on Postgres), the others wait and find nothing to do. The version before may go on
    serving: on Postgres a table that somebody holds is asked for again, `LOCK_TRIES` times.

    A schema that is newer than this code's is left alone, and the log says so: the version before
    goes on with it (`check_schema`).

    Raises:
        StoreBusy: a table was never free; nothing was changed.
    """
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            _migrate(engine, revision)
            return
        except StoreBusy:
            if attempt == LOCK_TRIES or engine.dialect.name != "postgresql":
                raise
            sleep(LOCK_PAUSE_S)


def _migrate(engine: Engine, revision: str) -> None:
    config = _config()
    with write(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _MIGRATION_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        actual = MigrationContext.configure(connection).get_current_revision()
        newest = ScriptDirectory.from_config(config).get_current_head()
        if actual is not None and newest is not None and actual > newest:
            log.warning(
                "%s: schema revision %s is newer than this version's %s: left as it is",
                *(shown(engine), actual, newest),
            )
            return
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def check_schema(engine: Engine) -> None:
    """Raise `SchemaBehind` unless the database is at the revision that this code needs, or newer.

    Migrations only add (a test holds them to it), so that a replica of the version before can start
    after one. Revisions are numbers of four digits.
    """
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    with read_snapshot(engine) as connection:
        actual = MigrationContext.configure(connection).get_current_revision()
    if actual is None or expected is None or actual < expected:
        raise SchemaBehind(shown(engine), actual, expected)
